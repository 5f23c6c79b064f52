"""Kills commands that need a framework, which is imported once: `python tests/kill_server.py --seed 0 --kills 12`.

Each kill is a child of this process. Half of the children are killed at a random time, half just before a random change
of the disk. Prints a JSON object: for each command the number of kills, what was found after them, and what is wrong.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import sys
import tempfile
import traceback

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from kills import count_steps, in_a_process, killed_at_step, leftovers, start_process, wait_for

EPOCHS = 4


def train(folder, result):
    """Train a model of three weights for EPOCHS epochs, or go on where a killed process stopped; store the weights."""
    import keras
    import test_resume

    import keras_maskrcnn as km

    keras.config.disable_traceback_filtering()
    test_resume.Figures.values = (0.2, 0.4, 0.3, 0.35)
    from keras_maskrcnn.runs import experiment, recorder
    from keras_maskrcnn.runs.callbacks import restore_weights
    from keras_maskrcnn.runs.folder import find_run

    experiment.CocoEvaluator, experiment.draw_overlays = test_resume.Figures, lambda *_: None
    recorder._plot = lambda path, rows: path.write_bytes(b"no picture")  # it takes longer than an epoch
    recipe = km.choose_recipe(2, 4, epochs=EPOCHS, learning_rate=0.05, accumulate=3, ema=0.9)
    model, loader = test_resume.start(recipe)
    if find_run(folder).finished:  # killed after its last step
        model.optimizer.build(model.trainable_variables)
        restore_weights(model, folder / "best.keras")
    else:
        resume = find_run(folder).started
        km.train_model(model, loader, loader, folder, epochs=EPOCHS, verbose=0, resume=resume)
    arrays = [*model.get_weights(), *(keras.ops.convert_to_numpy(v) for v in model.optimizer.variables)]
    np.savez(result, *arrays)


def kill_training(folder, number, rng):
    """Train to the end through `number` kills; compare with training that nobody disturbs."""
    import test_resume

    folder.mkdir()
    steps, seconds = count_steps(lambda: train(folder / "straight", folder / "straight.npz"))
    found, run, result = collections.Counter(), None, None
    k = -1
    while sum(found.values()) < number:
        k += 1
        if run is None:
            run, result = folder / f"run{k}", folder / f"run{k}.npz"
        work = lambda run=run, result=result: train(run, result)  # noqa: E731
        if k % 2:
            status = killed_at_step(work, rng.randrange(steps))
        else:
            status = in_a_process(work, kill_after=rng.uniform(0.2, 0.8) * seconds)
        if status == -9:
            found[look_at(run)] += 1
        if status == 0 or rng.random() < 0.4:
            compare(work, status, run, result, folder, test_resume.rows_of)
            run = None
    if run is not None:
        compare(work, -9, run, result, folder, test_resume.rows_of)
    return found


def look_at(run):
    """How far a killed run is; raises if a file of it is damaged."""
    from keras_maskrcnn.runs.folder import damage_of, find_run

    state = find_run(run)
    assert not state.problem, state.problem
    for name in ("best.keras", "last.keras"):
        assert not ((run / name).is_file() and damage_of(run / name)), name
    if state.state is None:
        return "no epoch"
    return "finished" if state.finished else "no report" if state.state["finished"] else "epochs"


def compare(work, status, run, result, folder, rows_of):
    """Finish a run; it must equal the undisturbed one to the bit, files and all."""
    if status != 0:
        assert in_a_process(work) == 0, "the resumed run failed"
    with np.load(result) as ours, np.load(folder / "straight.npz") as theirs:
        for key in theirs.files:
            np.testing.assert_array_equal(ours[key], theirs[key])
    assert rows_of(run) == rows_of(folder / "straight")
    assert weights_of(run / "best.keras") == weights_of(folder / "straight" / "best.keras")
    assert weights_of(run / "last.keras") == weights_of(folder / "straight" / "last.keras")
    assert (run / "index.html").is_file() and leftovers(run) == [], leftovers(run)


def weights_of(path):
    """The arrays of a `.keras` file, as bytes by name."""
    import io
    import zipfile

    import h5py

    found = {}
    with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
        file.visititems(lambda name, node: found.update({name: node[()].tobytes()} if hasattr(node, "dtype") else {}))
    return found


def small_model(value):
    """A Keras model of three weights with this value, and what an exporter asks it."""
    import keras
    from known_answers import small_config

    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    model.set_weights([np.full((2, 1), value, np.float32), np.zeros(1, np.float32)])
    model.config = small_config()
    return model


def convert(folder, value):
    """`keras-maskrcnn convert` to a .keras file, with another model than torchvision's, which would take minutes."""
    from keras_maskrcnn.weights import convert as module

    module.read_state, module.current_names, module.is_classifier = lambda path: {}, dict, lambda state: False
    module.build_model = lambda *_, **options: (small_model(value), "receipt")
    source = folder / "source.pth"
    if not source.is_file():
        source.write_bytes(b"weights")
    module.convert_file(source, folder / "model.keras", overwrite=True)


def export(folder, value):
    """`export_saved_model` of version 3, with one signature of a small model."""
    import tensorflow as tf

    from keras_maskrcnn.serving import saved_model, signatures

    def predict(images):
        return {"out": served(images)}

    served = small_model(value)
    contract = {"serving_default": (predict, {"images": tf.TensorSpec((None, 2), tf.float32, name="images")})}
    signatures.signatures, signatures.without_files = lambda model: contract, lambda config: None
    import keras_maskrcnn.serving.warmup as warmup

    warmup.write_warmup = lambda *_: None
    saved_model.export_saved_model(served, folder / "served", version=3, overwrite=True, optimize=False)


def exported(folder):
    """What an export computes, without the names that TensorFlow makes up anew each time."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder / "served" / "3"))
    return float(loaded.signatures["serving_default"](tf.ones((1, 2)))["out"][0, 0])


def kill_export(folder, number, rng):
    """Kill exports over an older version: afterwards the version is the old or the new one, and loads."""
    folder.mkdir()
    steps, seconds = count_steps(lambda: export(folder, 1.0))
    found = collections.Counter()
    for k in range(number):
        assert in_a_process(lambda: export(folder, 1.0)) == 0
        work = lambda: export(folder, 2.0)  # noqa: E731
        if k % 2:
            killed_at_step(work, rng.randrange(steps + 8))
        else:
            in_a_process(work, kill_after=rng.uniform(0.2, 1.0) * seconds)
        for value, kind in ((2.0, "old"), (4.0, "new")):
            found[kind] += in_a_process(lambda value=value: os._exit(exported(folder) != value)) == 0
        assert sum(found.values()) == k + 1, f"neither old nor new after kill {k}"
    assert in_a_process(work) == 0
    assert [path.name for path in (folder / "served").iterdir()] == ["3"]
    return found


def kill_conversion(folder, number, rng):
    """Kill `convert --overwrite`: afterwards the file is the old or the new one, whole."""
    folder.mkdir()
    steps, seconds = count_steps(lambda: convert(folder, 1.0))
    old, found = weights_of(folder / "model.keras"), collections.Counter()
    assert in_a_process(lambda: convert(folder, 2.0)) == 0
    new = weights_of(folder / "model.keras")
    assert old != new
    for k in range(number):
        assert in_a_process(lambda: convert(folder, 1.0)) == 0
        work = lambda: convert(folder, 2.0)  # noqa: E731
        if k % 2:
            killed_at_step(work, rng.randrange(steps))
        else:
            in_a_process(work, kill_after=rng.uniform(0.2, 1.0) * seconds)
        now = weights_of(folder / "model.keras")
        assert now in (old, new), f"neither old nor new after kill {k}"
        found["old" if now == old else "new"] += 1
    assert in_a_process(work) == 0 and leftovers(folder) == []
    return found


def two_writers(folder, number, rng):
    """Two processes train in one folder: one is refused, the other's run is as if it were alone."""
    import test_resume

    folder.mkdir()
    assert in_a_process(lambda: train(folder / "straight", folder / "straight.npz")) == 0
    found = collections.Counter()
    for k in range(number):
        run = folder / f"run{k}"
        results = [folder / f"{k}-{n}.npz" for n in range(2)]
        children = [start_process(lambda run=run, result=result: train(run, result)) for result in results]
        good = [n for n, child in enumerate(children) if wait_for(child) == 0]
        assert len(good) == 1, f"{len(good)} of two writers succeeded"
        compare(None, 0, run, results[good[0]], folder, test_resume.rows_of)
        found["one refused, one exact"] += 1
    return found


JOBS = {"train": kill_training, "convert": kill_conversion, "export": kill_export, "two writers": two_writers}


def main():
    """Run the jobs that are asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--job", nargs=2, action="append", metavar=("NAME", "KILLS"))
    args = parser.parse_args()
    import keras  # noqa: F401
    import test_resume  # noqa: F401

    import keras_maskrcnn.serving  # noqa: F401
    import keras_maskrcnn.weights.convert  # noqa: F401

    report = {"seed": args.seed}
    with tempfile.TemporaryDirectory() as folder:
        for name, kills in args.job:
            try:
                found = dict(
                    JOBS[name](pathlib.Path(folder) / name.replace(" ", "-"), int(kills), random.Random(args.seed))
                )
                report[name] = {"kills": int(kills), "found": found, "wrong": ""}
            except Exception:
                report[name] = {"kills": int(kills), "found": {}, "wrong": traceback.format_exc()[-1500:]}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
