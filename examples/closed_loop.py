"""Rates and decoded behavior in real time, from a source of spike counts.

    python examples/closed_loop.py [NEW_FOLDER [SETTING=VALUE ...]]

Run it unchanged first: it makes a synthetic session of reaches, trains a causal model (a few
minutes), and replays a minute of the session at the speed at which it was recorded, through the
Lab Streaming Layer if pylsl is installed (pip install "ndt-cli[lsl]"), else within the program.
Then replace `replay` by your own source: all that the loop needs is the counts of each bin.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue

import numpy as np
from made_up_session import write_session

from ndt_cli import load_settings, load_trained, train, write_recording
from ndt_cli.convert import ConvertOptions, convert
from ndt_cli.engine.streaming import SilenceWatch, fit_decoder

BIN_MS = 20


def main(
    folder: str = "closed-loop-example",
    *changes: str,
    seconds: float = 60.0,
    speed: float = 1.0,
    through_lsl: bool | None = None,
) -> None:
    """Train, then close the loop on a replayed minute."""
    out = Path(folder)
    out.mkdir(parents=True)

    # 1. Trials with behavior, and a model none of whose bins looks ahead.
    session = write_session(out / "session.npz")
    options = ConvertOptions(
        bin_ms=BIN_MS,
        align="go_cue",
        window_ms=(-200, 1000),
        behavior=("hand_velocity",),
        behavior_times="hand_times",
    )
    recording = convert(session, options).recording
    spikes = out / "reaches.npz"
    write_recording(recording, spikes)
    train(load_settings("recordings-causal", [f"data.file={spikes}", *changes]), out=out / "run")

    # 2. A stream of rates, and of the hand's velocity: ridge regression on the rates of the
    # training trials, as `ndt evaluate` scores it.
    model = load_trained(out / "run", device="cpu")
    stream = model.stream(decoder=fit_decoder(model, recording.train))
    print(f"the model's delay: {stream.delay_ms:g} ms; the hand's: {stream.decoding_delay_ms:g} ms")

    # 3. The loop. What is decoded would move a cursor; here it is compared with the hand.
    counts_TN, hand_T2 = bins_of(session, seconds)
    source = lsl_source if has_pylsl() and through_lsl is not False else local_source
    way = "the Lab Streaming Layer" if source is lsl_source else "a queue of this program"
    print(f"{len(counts_TN)} bins at {speed:g} x, through {way}")
    watch = SilenceWatch(model.trained_on)
    decoded_T2 = np.full(hand_T2.shape, np.nan)
    late_ms, compute_ms = [], []
    for ended_s, counts_N in source(counts_TN, BIN_MS / 1000 / speed):
        start_s = time.perf_counter()
        stream.step(counts_N)  # None for a bin that was lost on the way
        done_s = time.perf_counter()
        if stream.decoded_V is not None and stream.decoded_bin < len(decoded_T2):
            decoded_T2[stream.decoded_bin] = stream.decoded_V
        if counts_N is not None:
            for channel in watch.step(counts_N):
                print(f"channel {channel} has fallen silent")
        compute_ms.append((done_s - start_s) * 1000)
        late_ms.append((done_s - ended_s) * 1000)

    # 4. From the end of a bin to its rates: what the way and the waiting took, and what ndt took.
    for what, times_ms in (("ndt alone", compute_ms), ("with the way", late_ms)):
        p50, p99, most = np.percentile(times_ms, (50, 99, 100))
        print(f"{what}: {p50:.2f} ms (median), {p99:.2f} (p99), {most:.2f} (most)")
    known_T = np.isfinite(decoded_T2).all(axis=1)
    # Most of this minute was trained on: the score shows that the loop works, not how well.
    r = np.corrcoef(decoded_T2[known_T].ravel(), hand_T2[known_T].ravel())[0, 1]
    print(f"decoded hand velocity: correlation {r:.2f}")


def bins_of(session: Path, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Return counts (bins, neurons) and hand velocity (bins, 2) of the session's beginning."""
    with np.load(session) as file:
        n_neurons = int(file["spike_units"].max()) + 1
        edges_s = np.arange(0, seconds, BIN_MS / 1000)
        counts_NT = [
            np.histogram(file["spike_times"][file["spike_units"] == unit], edges_s)[0]
            for unit in range(n_neurons)
        ]
        middle_s = edges_s[:-1] + BIN_MS / 2000
        hand = [np.interp(middle_s, file["hand_times"], v) for v in file["hand_velocity"].T]
    return np.stack(counts_NT, axis=1), np.stack(hand, axis=1)


def replay(counts_TN: np.ndarray, bin_s: float, send: Callable[[np.ndarray], None]) -> None:
    """Send each bin when it ends."""
    start_s = time.perf_counter()
    for t, counts_N in enumerate(counts_TN, start=1):
        time.sleep(max(0.0, start_s + t * bin_s - time.perf_counter()))
        send(counts_N)


def local_source(counts_TN: np.ndarray, bin_s: float) -> Iterator[tuple[float, np.ndarray | None]]:
    """Yield the time at which each bin ended and its counts, from a thread of this program."""
    queue: Queue[tuple[float, np.ndarray]] = Queue()
    threading.Thread(
        target=replay, args=(counts_TN, bin_s, lambda x: queue.put((time.perf_counter(), x)))
    ).start()
    for _ in counts_TN:
        yield queue.get()


def has_pylsl() -> bool:
    """Return whether the Lab Streaming Layer can be used here."""
    try:
        import pylsl  # noqa: F401
    except (ImportError, RuntimeError):  # the package, or the library that it loads
        return False
    return True


def lsl_source(counts_TN: np.ndarray, bin_s: float) -> Iterator[tuple[float, np.ndarray | None]]:
    """Yield the same from the Lab Streaming Layer; None for a bin that was lost."""
    import pylsl

    n_neurons = counts_TN.shape[1]
    info = pylsl.StreamInfo("ndt-replay", "SpikeCounts", n_neurons, 1 / bin_s, "int32", "ndt-demo")
    outlet = pylsl.StreamOutlet(info)
    (found,) = pylsl.resolve_byprop("source_id", "ndt-demo", timeout=10)
    inlet = pylsl.StreamInlet(found)
    inlet.open_stream(timeout=10)
    outlet.wait_for_consumers(10)
    threading.Thread(
        target=replay, args=(counts_TN, bin_s, lambda x: outlet.push_sample(x.tolist()))
    ).start()
    offset_s = time.perf_counter() - pylsl.local_clock()
    for _ in counts_TN:
        sample, sent_s = inlet.pull_sample(timeout=10 * bin_s)
        if sample is None:  # lost, or far too late
            yield time.perf_counter(), None
        else:
            yield sent_s + offset_s, np.array(sample)


if __name__ == "__main__":
    main(*sys.argv[1:])
