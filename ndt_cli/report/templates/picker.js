"use strict";
// Draws the spikes of a chosen trial, and a chosen neuron's rates in it, from the page's own data.
(function () {
  const data = JSON.parse(document.getElementById("picker-data").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const spikes = bytes(data.spikes);
  const sources = data.sources.map((source) => ({ ...source, rates: bytes(source.rates) }));
  const [nBins, nUnits] = [data.n_bins, data.units.length];
  const at = (trial, unit, bin) => (trial * nUnits + unit) * nBins + bin;
  const box = document.getElementById("picker-drawing");
  const trials = document.getElementById("picker-trial");
  const units = document.getElementById("picker-unit");
  const add = (parent, tag, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const name in attributes) made.setAttribute(name, attributes[name]);
    if (text !== undefined) made.textContent = text;
    return parent.appendChild(made);
  };
  const options = (select, labels, chosen) => {
    labels.forEach((label, index) => select.add(new Option(label, index)));
    select.selectedIndex = chosen;
    select.addEventListener("change", draw);
  };

  // The smallest round step that divides a range into no more than so many parts.
  const roundStep = (range, most) => {
    const unit = 10 ** Math.floor(Math.log10(range / most));
    return [1, 2, 2.5, 5, 10].map((k) => k * unit).find((step) => range / step <= most);
  };

  function draw() {
    const trial = trials.selectedIndex, unit = units.selectedIndex;
    const [width, left, right, rasterHeight, gap, ratesHeight] = [720, 60, 12, 190, 34, 170];
    const height = rasterHeight + gap + ratesHeight + 52;
    box.replaceChildren();
    const label = `Spikes of ${data.trials[trial].label}, and rates of ${data.units[unit]}`;
    const svg = add(box, "svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
    const end = data.start + nBins * data.step;
    const x = (time) => left + ((time - data.start) / (end - data.start)) * (width - left - right);
    const line = (x1, y1, x2, y2, css) => add(svg, "line", { x1, y1, x2, y2, class: css });
    const word = (text, px, py, css) => add(svg, "text", { x: px, y: py, class: css }, text);

    // Spikes of all neurons; a click on a row chooses its neuron.
    const row = (rasterHeight - 20) / nUnits, top = 20;
    add(svg, "rect", {
      x: left, y: top + (nUnits - 1 - unit) * row, width: width - left - right,
      height: Math.max(row, 2), class: "chosen",
    });
    const binWidth = x(data.start + data.step) - x(data.start);
    for (let n = 0; n < nUnits; n++) {
      for (let bin = 0; bin < data.trials[trial].n_bins; bin++) {
        const count = spikes[at(trial, n, bin)];
        if (count) {
          add(svg, "rect", {
            x: x(data.start + bin * data.step) + 0.2 * binWidth, width: 0.6 * binWidth,
            y: top + (nUnits - 1 - n + 0.1) * row, height: 0.8 * row,
            class: "spike", opacity: Math.min(1, 0.45 + 0.2 * count),
          });
        }
      }
    }
    word("spikes of all neurons", left, 12, "");
    const cover = add(svg, "rect", {
      x: left, y: top, width: width - left - right, height: rasterHeight - 20, class: "cover",
    });
    cover.addEventListener("click", (event) => {
      const place = (event.clientY - cover.getBoundingClientRect().top) / cover.getBoundingClientRect().height;
      units.selectedIndex = Math.max(0, Math.min(nUnits - 1, nUnits - 1 - Math.floor(place * nUnits)));
      draw();
    });

    // Rates of one neuron.
    const base = rasterHeight + gap + ratesHeight, peak = data.peak_hz[unit];
    let most = 0;
    for (const source of sources) {
      for (let bin = 0; bin < data.trials[trial].n_bins; bin++) {
        most = Math.max(most, source.rates[at(trial, unit, bin)]);
      }
    }
    const highest = Math.max((most / 255) * peak, 1);
    const y = (hz) => base - (hz / highest) * (ratesHeight - 20);
    const step = roundStep(highest, 4);
    for (let hz = 0; hz <= highest; hz += step) {
      line(left, y(hz), width - right, y(hz), "grid");
      word(`${+hz.toPrecision(3)}`, left - 6, y(hz) + 4, "right");
    }
    word(`${data.units[unit]}: rate (Hz)`, left, rasterHeight + gap - 2, "");
    sources.forEach((source, index) => {
      const points = [];
      for (let bin = 0; bin < data.trials[trial].n_bins; bin++) {
        const hz = (source.rates[at(trial, unit, bin)] / 255) * peak;
        points.push(`${x(data.start + (bin + 0.5) * data.step).toFixed(1)},${y(hz).toFixed(1)}`);
      }
      add(svg, "polyline", { points: points.join(" "), class: `rate ${source.css}` });
      const legend = width - right - (sources.length - index) * 120;
      line(legend, rasterHeight + gap - 6, legend + 18, rasterHeight + gap - 6, `rate ${source.css}`);
      word(source.name, legend + 23, rasterHeight + gap - 2, "");
    });
    for (let bin = 0; bin < data.trials[trial].n_bins; bin++) {
      if (spikes[at(trial, unit, bin)]) {
        const middle = x(data.start + (bin + 0.5) * data.step);
        line(middle, base + 3, middle, base + 10, "tick");
      }
    }

    // Times below both.
    const every = roundStep(end - data.start, 8);
    for (let time = Math.ceil(data.start / every) * every; time <= end + 1e-9; time += every) {
      word(`${+time.toPrecision(6)}`, x(time), base + 26, "middle");
      line(x(time), base + 10, x(time), base + 14, "grid");
    }
    word(data.time_label, (left + width - right) / 2, base + 44, "middle");
    if (data.has_event && data.start < 0 && end > 0) line(x(0), top, x(0), base, "event");
  }

  options(trials, data.trials.map((trial) => trial.label), data.first_trial);
  options(units, data.units, data.first_unit);
  document.getElementById("picker").hidden = false;
  draw();
})();
