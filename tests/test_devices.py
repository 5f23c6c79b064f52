"""One model on several devices and in several processes computes what it computes on one device.

The short tests are of the parts. The slow ones train the smallest detector: `devices/five_steps.py`.
"""

import contextlib
import json
import pathlib
import socket
import sys
import threading
import types
import zipfile

import keras
import numpy as np
import pytest
from child_processes import Child, end, python_path, status_of, stop, wait_until

import keras_maskrcnn as km
from keras_maskrcnn import backend
from keras_maskrcnn.backend.team import Team, collector
from keras_maskrcnn.host.processes import place_among_processes
from keras_maskrcnn.runs import devices as devices_module
from keras_maskrcnn.runs.devices import check_shares

TESTS = pathlib.Path(__file__).parent
LOSSES = ("rpn_objectness_loss", "rpn_box_loss", "class_loss", "box_loss", "mask_loss", "loss")
ON_JAX = keras.backend.backend() == "jax"
UNOPTIMISED = "import tensorflow as tf; tf.config.optimizer.set_experimental_options({'disable_meta_optimizer': True})"
LONGEST = 1800  # seconds for whole runs on a busy machine
NOTICED = 150  # seconds in which a process notices that another one was killed: JAX asks for 100, TensorFlow for 60
SLOW = pytest.mark.slow if not ON_JAX else pytest.mark.slow_on_jax


def start(*command, **environment):
    """A process that runs Python with this command."""
    environment = {"PYTHONPATH": python_path(TESTS.parent, TESTS), "TF_CPP_MIN_LOG_LEVEL": "3"} | environment
    return Child([sys.executable, *map(str, command)], **environment)


def start_script(name, *args, **environment):
    """A process of devices/."""
    return start(TESTS / "devices" / name, *args, **environment)


# Processes -------------------------------------------------------------------------------------------------


def teams_of_threads(count):
    """Teams whose processes are threads of this one."""
    board, barrier = [None] * count, threading.Barrier(count)

    def rows_of_all(index):
        def exchange(row):
            board[index] = row
            barrier.wait(10)
            found = np.stack(board)  # all have the same length
            barrier.wait(10)
            return found

        return exchange

    return [Team(index, count, count, (index, count), collector(rows_of_all(index))) for index in range(count)]


def in_threads(function, teams):
    """function(team) of each team, at the same time: what it returns, or its error."""
    results = [None] * len(teams)

    def run(team):
        try:
            results[team.index] = function(team)
        except Exception as error:
            results[team.index] = error

    threads = [threading.Thread(target=run, args=(team,)) for team in teams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_processes_gather_agree_and_fail_together():
    teams = teams_of_threads(3)
    assert in_threads(lambda team: team.gather({"place": team.index}), teams) == [[{"place": n} for n in range(3)]] * 3
    acted = []
    assert in_threads(lambda team: team.agree(lambda: acted.append(team.index) or "done"), teams) == ["done"] * 3
    assert acted == [0]

    def fail(team):
        if team.index == 1:
            raise ValueError("image 7 cannot be read")
        return team.index

    assert [str(one) for one in in_threads(lambda team: team.everyone(lambda: fail(team)), teams)] == [
        "image 7 cannot be read"
    ] * 3
    alone = Team()
    assert (alone.gather(5), alone.agree(lambda: 6), alone.everyone(lambda: 7)) == ([5], 6, [7])


def test_processes_gather_bytes_of_any_length():
    data = [bytes(range(256)) * 3, b"", b"12345"]
    assert in_threads(lambda team: team.collect(data[team.index]), teams_of_threads(3)) == [data] * 3


def test_the_loss_of_another_process_is_told_and_other_errors_stay_what_they_are(monkeypatch):
    left = []
    monkeypatch.setattr(devices_module.backend, "leave", lambda: left.append(True))
    with pytest.raises(ConnectionError, match="^2 processes .* Received the loss of another one: .*refused"), ending(2):
        raise lost("Connection refused")
    with pytest.raises(ValueError, match="^image 7 cannot be read$"), ending(2):
        raise ValueError("image 7 cannot be read")
    assert len(left) == 2
    with pytest.raises(ValueError, match="^image 7 cannot be read$"), ending(1):
        raise ValueError("image 7 cannot be read")
    assert len(left) == 2  # a process that is alone ends as ever


def ending(count):
    return devices_module._ending_with_the_others(count)


def lost(reason):
    """What the framework raises when another process is gone."""
    if ON_JAX:
        return ValueError(f"UNKNOWN: Gloo AllGather failed: {reason}")
    import tensorflow as tf

    return tf.errors.UnavailableError(None, None, f"Collective ops is aborted by: {reason}\nRestart to reset.")


def test_an_error_that_pickle_cannot_bring_back_is_told_in_words():
    class Local(Exception):
        pass

    def fail(team):
        if team.index == 0:
            raise Local("no such thing")

    first, second = in_threads(lambda team: team.everyone(lambda: fail(team)), teams_of_threads(2))
    assert isinstance(first, Local) and "Local: no such thing" in str(second)


def test_shared_evaluation_joins_detections_in_the_order_of_one_process(monkeypatch):
    from keras_maskrcnn.evaluation import coco

    rng = np.random.default_rng(0)
    masks = [[np.zeros((20, 20), bool)] for _ in range(5)]
    for (mask,) in masks:
        mask[2:9, 3:12] = True
    dataset = km.data.ArrayDataset([rng.integers(0, 255, (20, 20, 3), np.uint8)] * 5, masks)
    config = types.SimpleNamespace(max_detections=1, class_names=("object",), category_ids=(1,), num_classes=1)
    seen = []

    def detect(model, dataset, positions, *rest):
        return {place: (1, [{"image_id": place + 1, "score": 0.5}]) for place in positions}

    def metrics(truth, detections, *rest):
        seen.append([one["image_id"] for one in detections])
        return {"bbox_AP": 1.0}

    monkeypatch.setattr(coco, "_detect", detect)
    monkeypatch.setattr(coco, "coco_metrics", metrics)
    monkeypatch.setattr(coco, "category_ids_of", lambda *args: (1,))
    monkeypatch.setattr(coco.backend, "team_of", lambda model: model.team)
    models = [types.SimpleNamespace(team=team, config=config) for team in teams_of_threads(2)]
    found = in_threads(lambda team: coco.evaluate_coco(models[team.index], dataset), [m.team for m in models])
    assert seen == [[1, 2, 3, 4, 5]]  # counted once
    assert [one["bbox_AP"] for one in found] == [1.0, 1.0] and [one["images_at_cap"] for one in found] == [5.0, 5.0]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1)),
        ({"TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}'}, (1, 2)),
        ({"TF_CONFIG": '{"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, "task": {"type": "worker"}}'}, (1, 2)),
        (
            {"KERAS_BACKEND": "jax", "KERAS_DISTRIBUTION_PROCESS_ID": "2", "KERAS_DISTRIBUTION_NUM_PROCESSES": "4"},
            (2, 4),
        ),
        ({"KERAS_BACKEND": "tensorflow", "KERAS_DISTRIBUTION_PROCESS_ID": "2"}, (0, 1)),
    ],
)
def test_the_environment_says_which_process_this_is(monkeypatch, environment, expected):
    for name in ("TF_CONFIG", "KERAS_BACKEND", "KERAS_DISTRIBUTION_PROCESS_ID", "KERAS_DISTRIBUTION_NUM_PROCESSES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert place_among_processes() == expected


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"KERAS_BACKEND": "tensorflow", "TF_CONFIG": "{cluster}"}, r"TF_CONFIG is JSON .* Received '\{cluster\}'"),
        (
            {"KERAS_BACKEND": "tensorflow", "TF_CONFIG": '{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps"}}'},
            "its task is one of the cluster",
        ),
        (
            {"KERAS_BACKEND": "jax", "KERAS_DISTRIBUTION_PROCESS_ID": "2", "KERAS_DISTRIBUTION_NUM_PROCESSES": "2"},
            "from 0 to below KERAS_DISTRIBUTION_NUM_PROCESSES. Received '2' and '2'",
        ),
        (
            {"KERAS_BACKEND": "jax", "KERAS_DISTRIBUTION_PROCESS_ID": "one", "KERAS_DISTRIBUTION_NUM_PROCESSES": "2"},
            "from 0 to below KERAS_DISTRIBUTION_NUM_PROCESSES. Received 'one' and '2'. Correct them",
        ),
    ],
)
def test_an_environment_that_names_no_process_is_an_error(monkeypatch, environment, told):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=told):
        place_among_processes()


# Devices ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("devices", "processes", "told"),
    [
        (0, 1, r"devices=\.\.\. is \"all\" or a number of devices, at least 1. Received 0"),
        ("both", 1, "Received 'both'"),
        (3, 1, r"Received devices=3, and there are 2: GPU:0, GPU:1. Ask for fewer\."),
        (2, 4, "Received devices=2 and 4 processes. Leave it out"),
    ],
)
def test_devices_that_are_not_there_are_errors(monkeypatch, devices, processes, told):
    monkeypatch.setattr(devices_module.backend, "connect", lambda: processes)
    monkeypatch.setattr(devices_module.backend, "own_devices", lambda wanted: ["GPU:0", "GPU:1"])
    with pytest.raises(ValueError, match=told), km.use_devices(devices):
        pass


def test_one_device_is_used_as_without_use_devices(monkeypatch):
    monkeypatch.setattr(devices_module.backend, "spread", lambda names: pytest.fail("nothing is to be spread"))
    monkeypatch.setattr(devices_module.backend, "own_devices", lambda wanted: ["CPU:0"])
    with km.use_devices() as team:
        assert (team.index, team.count, team.replicas, team.shard, team.first) == (0, 1, 1, (0, 1), True)


def loader_of(images=10, **options):
    rng = np.random.default_rng(0)
    masks = [[np.zeros((32, 32), bool)] for _ in range(images)]
    for (mask,) in masks:
        mask[4:20, 5:25] = True
    dataset = km.data.ArrayDataset([rng.integers(0, 255, (32, 32, 3), np.uint8)] * images, masks)
    config = km.MaskRCNNConfig(num_classes=1, image_scale=1.0, max_instances=3)
    return km.DataLoader(dataset, config, options.pop("batch_size", 4), **options)


@pytest.mark.parametrize(
    ("team", "options", "fields", "told"),
    [
        (Team(1, 2, 2, (1, 2)), {}, {"epochs": 1}, r"here shard=\(1, 2\). Received a DataLoader with shard=\(0, 1\)"),
        (Team(replicas=3), {}, {"epochs": 1}, "Received batch_size=4 for 3 devices. Make it a multiple of 3"),
        (Team(0, 2, 2), {}, {"minutes": 5}, r"Received minutes=5 and 2 processes. Give epochs=\.\.\."),
    ],
)
def test_data_that_devices_cannot_share_are_errors(team, options, fields, told):
    with pytest.raises(ValueError, match=told):
        check_shares(team, loader_of(**options), km.RunOptions(**fields))


def test_a_last_batch_must_fit_the_devices():
    options = km.RunOptions(epochs=1)
    for loader in (loader_of(11, fill_last=True), loader_of(11, drop_last=True), loader_of(8)):
        check_shares(Team(replicas=4), loader, options)
    with (
        contextlib.nullcontext() if backend.CAN_SHARE_UNEVENLY else pytest.raises(ValueError, match="of 3 images for 4")
    ):
        check_shares(Team(replicas=4), loader_of(11), options)


@pytest.mark.parametrize("worker_type", ["thread", "process"])
def test_last_batches_are_filled_with_rows_without_an_image(worker_type):
    whole, filled = loader_of(5), loader_of(5, fill_last=True, worker_type=worker_type)
    halves = [loader_of(5, fill_last=True, shard=(host, 2), worker_type=worker_type) for host in range(2)]
    last = filled[1]
    assert [len(part["images"]) for part in (whole[1], last, *(half[1] for half in halves))] == [1, 4, 2, 2]
    for name, array in whole[1].items():
        np.testing.assert_array_equal(last[name][:1], array)
        assert not last[name][1:].any()
    assert [half[1]["image_sizes"][:, 0].tolist() for half in halves] == [[32, 0], [0, 0]]
    km.check_batch(last, filled.config)
    for loader in (filled, *halves):
        loader.close()


@pytest.mark.tensorflow  # on JAX each operator of a model that runs once would be compiled by itself
@pytest.mark.parametrize("mask_padding", [False, True])
def test_rows_without_an_image_count_in_no_loss(mask_padding):
    import tensorflow as tf
    from tiny import random_batch, sample_everything

    model = km.MaskRCNN(sample_everything(mask_padding=mask_padding), seed=0)
    batch = random_batch([(64, 64)], (64, 64))
    filled = {name: np.concatenate([array, np.zeros_like(array)]) for name, array in batch.items()}
    losses = []
    for data in (batch, filled):
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x=data, y_pred=model(data, training=True))
        losses.append(
            [float(loss), *(float(tf.reduce_sum(g**2)) for g in tape.gradient(loss, model.fpn.trainable_variables))]
        )
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert losses[0][0] > 1


@pytest.mark.tensorflow
def test_optimizers_see_the_gradients_of_all_replicas(tmp_path):
    end(start_script("optimizers.py", tmp_path / "result.json", KERAS_BACKEND="tensorflow"), seconds=LONGEST)
    result = json.loads((tmp_path / "result.json").read_text())
    assert {name: one["difference"] < 1e-6 for name, one in result.items()} == dict.fromkeys(result, True)
    assert len(result) == 5 and all(one["size"] > 0.1 for one in result.values())


@pytest.mark.tensorflow
def test_a_batch_is_divided_among_the_devices_of_a_process():
    import tensorflow as tf

    from keras_maskrcnn.backend.distribution_tensorflow import divided

    dataset = tf.data.Dataset.from_tensor_slices({"a": np.arange(12)}).batch(6)
    assert [one["a"].tolist() for one in divided(dataset, 3).as_numpy_iterator()] == [
        [0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11],
    ]  # fmt: skip
    assert divided(dataset, 1) is dataset


# Whole runs ------------------------------------------------------------------------------------------------


def environments(count):
    """The environment variables of processes on this machine."""
    with contextlib.ExitStack() as free:
        sockets = [free.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("localhost", 0))
        addresses = [f"localhost:{one.getsockname()[1]}" for one in sockets]
    if ON_JAX:
        shared = {"KERAS_DISTRIBUTION_JOB_ADDRESSES": addresses[0], "KERAS_DISTRIBUTION_NUM_PROCESSES": str(count)}
        return [shared | {"KERAS_DISTRIBUTION_PROCESS_ID": str(place)} for place in range(count)]
    return [
        {"TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": place}})}
        for place in range(count)
    ]


CASES = (
    "plain",
    "uneven",  # the last batch has one image
    "clipped",  # with accumulated gradients and averaged weights
    "adamw",
    "adamw_once",
    "bfloat16",
)
TOLERANCE = 1e-5
RATE = 1e-3  # of adamw_once


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Results of one device."""
    path = tmp_path_factory.mktemp("alone") / "alone.npz"
    end(start_script("five_steps.py", 1, path, *CASES), seconds=LONGEST)
    yield np.load(path)
    path.unlink()  # hundreds of MB


def assert_same(found, expected, replicas):
    assert int(found["replicas"]) == replicas
    figures, wanted = (json.loads(str(one["figures"])) for one in (found, expected))
    for case in CASES:
        names = [name for name in expected.files if name.startswith(f"{case}/") and name.count("/") == 1]
        differences = {name.split("/")[1]: np.abs(found[name] - expected[name]) for name in names}
        if case == "adamw_once":
            assert_same_adamw_step(found, expected, differences)
        else:
            assert max(one.max() for one in differences.values()) <= TOLERANCE, case
        moved = max(
            np.abs(expected[f"{case}/{place}"] - expected[f"start/{place}"]).max() for place in places(expected)
        )
        assert moved > 90 * TOLERANCE, case  # so that the tolerance says something
        for name in LOSSES:
            assert figures[case][name] == pytest.approx(wanted[case][name], rel=1e-3 if case == "bfloat16" else 1e-5)


def places(results):
    """The places of the trained weights."""
    return [name.split("/")[2] for name in results.files if name.startswith("adamw_once/momentums/")]


def assert_same_adamw_step(found, expected, differences):
    """After one step of AdamW, which goes by the rate up or down wherever the gradient is not 0.

    Its means are linear and quadratic in the gradients. Where a gradient is 0 but for its rounding, so is its sign.
    """
    clear = total = 0
    for place in places(expected):
        first, second = (f"adamw_once/{name}/{place}" for name in ("momentums", "velocities"))
        assert np.abs(found[first] - expected[first]).max() <= TOLERANCE * 0.1
        np.testing.assert_allclose(np.sqrt(found[second]), np.sqrt(expected[second]), atol=TOLERANCE * 0.03)
        known = np.abs(expected[first]) > TOLERANCE * 0.1  # 0.1 times the gradient
        assert differences[place][known].max(initial=0) <= TOLERANCE
        assert differences[place].max() <= 2.01 * RATE
        clear, total = clear + known.sum(), total + known.size
    assert clear > 0.4 * total  # the others have no gradient: filters that see nothing


@SLOW
def test_two_devices_compute_what_one_does(tmp_path, alone):
    end(start_script("five_steps.py", 2, tmp_path / "two.npz", *CASES), seconds=LONGEST)
    assert_same(np.load(tmp_path / "two.npz"), alone, replicas=2)


@SLOW
def test_two_processes_compute_what_one_device_does(tmp_path, alone):
    processes = [start_script("five_steps.py", "none", tmp_path / "two.npz", *CASES, **own) for own in environments(2)]
    end(*processes, seconds=LONGEST)
    assert_same(np.load(tmp_path / "two.npz"), alone, replicas=2)


@pytest.mark.parametrize(
    "how", [pytest.param("killed", marks=SLOW), pytest.param("raises", marks=[] if ON_JAX else SLOW)]
)
def test_processes_end_soon_after_one_that_is_killed_or_fails(how):
    first, second = (start_script("leaving.py", how, **own) for own in environments(2))
    try:
        statuses = [status_of(second, LONGEST), status_of(first, NOTICED)]
    finally:
        stop(first, second)
    assert statuses == [-9 if how == "killed" else 1, 1]
    assert "ConnectionError: 2 processes work together, and none goes on without the others" in first.told()
    assert ("ValueError: image 7 cannot be read" in second.told()) == (how == "raises")


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("processes", [1, 2])
def test_running_means_of_replicas_are_restored_as_they_were_read(processes):
    places = environments(2) if processes == 2 else [{}]
    devices = "none" if processes == 2 else 2
    for told in end(*(start_script("running_means.py", devices, **own) for own in places), seconds=LONGEST):
        assert "read [12.0, 4.0], then [12.0, 4.0]\n" in told  # two replicas: the value 3 with weight 2 each


# The command -----------------------------------------------------------------------------------------------


def start_command(*arguments, **environment):
    """`keras-maskrcnn` as a process, without TensorFlow's graph optimiser: its graphs run a dozen times."""
    code = "import sys, keras_maskrcnn_launcher as launcher; sys.exit(launcher.main())"
    return start("-c", code if ON_JAX else f"{UNOPTIMISED}; {code}", *arguments, **environment)


def start_train(folder, run, *options, **environment):
    """`keras-maskrcnn train` on the shapes of a folder."""
    shapes = folder / "shapes"
    data = [
        (f"--{part}images", shapes / "images", f"--{part}annotations", shapes / "annotations.json")
        for part in ("", "val-")
    ]
    model = ("--start-from", folder / "model.keras", "--batch-size", 2, "--augment", "none")
    return start_command("train", *data[0], *data[1], *model, *options, "--run-dir", run, **environment)


def resume_train(run, **environment):
    """`keras-maskrcnn train --resume`."""
    return start_command("train", "--resume", "--run-dir", run, **environment)


def weights_of(file):
    """All arrays of a `.keras` file, those of the optimizer among them, by name."""
    import h5py

    found = {}
    with zipfile.ZipFile(file) as archive, archive.open("model.weights.h5") as weights, h5py.File(weights) as h5:
        h5.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def assert_same_weights(file, other, tolerance):
    found, expected = weights_of(file), weights_of(other)
    differences = {name: np.abs(found[name] - expected[name]).max() for name in expected if expected[name].size}
    assert max(differences.values()) <= tolerance, sorted(differences.items(), key=lambda item: -item[1])[:5]
    assert found.keys() == expected.keys() and len(found) > 50


def table_of(run):
    """metrics.csv as an array with named columns."""
    return np.genfromtxt(run / "metrics.csv", delimiter=",", names=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small model, and shapes to train it on."""
    from tiny import tiny_config

    from keras_maskrcnn.data.shapes import generate_shapes

    place = tmp_path_factory.mktemp("command")
    generate_shapes(place / "shapes", 8, image_size=64)
    km.MaskRCNN(tiny_config(class_names=km.open_dataset(place / "shapes").class_names)).save(place / "model.keras")
    return place


@SLOW
def test_train_on_two_devices_learns_and_two_processes_measure_what_one_does(folder, tmp_path):
    run, learning = tmp_path / "run", ("--epochs", 60, "--evaluate-every", 60, "--learning-rate", 0.001)
    (told,) = end(start_train(folder, run, *learning, "--devices", 2), seconds=LONGEST)
    assert "2 devices share each batch\n" in told and "best epoch, saved as" in told
    losses = table_of(run)["loss"]
    assert len(losses) == 60 and losses[-1] < losses[0] / 2
    assert (run / "index.html").is_file()
    recorded = json.loads((run / "metrics.json").read_text())
    assert recorded["segm_AP"] > 0.02 and recorded["bbox_AP"] > 0.02
    shapes = ("--images", folder / "shapes" / "images", "--annotations", folder / "shapes" / "annotations.json")
    for number, places in enumerate(([{}], environments(2))):
        file = tmp_path / f"{number}.json"
        measuring = [start_command("evaluate", run, *shapes, "--json", file, **own) for own in places]
        tables = [told.count("AP50") for told in end(*measuring, seconds=LONGEST)]
        assert tables[0] > 0 and not any(tables[1:])  # the first one tells
        found = json.loads(file.read_text()) | {"seconds_per_image": recorded["seconds_per_image"]}
        assert found == pytest.approx(recorded, abs=1e-6)


@SLOW
def test_a_batch_that_two_devices_cannot_share_is_refused_in_the_words_of_the_command(folder, tmp_path):
    refused = start_train(folder, tmp_path / "run", "--epochs", 1, "--devices", 2, "--batch-size", 3)
    assert status_of(refused, LONGEST) == 2
    assert "Received --batch-size 3 for 2 devices. Make it a multiple of 2" in refused.told()


def kill_within_an_epoch(run, epochs, victim, other):
    """Kill one of two processes when so many epochs are done and the next has begun. The other ends by itself."""

    def within():
        try:
            table, midway = run / "metrics.csv", run / "midway.keras"
            done = table.read_text().count("\n") - 1  # beside the line of names
            return done >= epochs and midway.stat().st_mtime > table.stat().st_mtime
        except FileNotFoundError:  # not yet, or midway.keras was removed at this moment
            return False

    try:
        wait_until(within, (victim, other), LONGEST)
        victim.kill()
        assert status_of(other, NOTICED) != 0
        assert not (run / "index.html").is_file()
        return other.told()
    finally:
        stop(victim, other)


@SLOW
def test_a_run_whose_processes_are_killed_one_after_the_other_ends_as_if_none_was(folder, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    length = ("--epochs", 3, "--save-minutes", 0.0001)
    end(*(start_train(folder, whole, *length, **own) for own in environments(2)), seconds=LONGEST)
    first, second = (start_train(folder, killed, *length, **own) for own in environments(2))
    told = kill_within_an_epoch(killed, 1, second, first)
    assert "Received the loss of another one" in told and "goes on with --resume" in told and "Traceback" not in told
    first, second = (resume_train(killed, **own) for own in environments(2))
    told = kill_within_an_epoch(killed, 2, first, second)
    assert "Received the loss of another one" in told or "another task died" in told  # on JAX by the first
    told = end(*(resume_train(killed, **own) for own in environments(2)), seconds=LONGEST)
    assert "resuming" in told[0] and "after" in told[0]
    for name in ("last.keras", "best.keras"):
        if (whole / name).is_file():
            assert_same_weights(killed / name, whole / name, 1e-6)
    for name in LOSSES:
        np.testing.assert_allclose(table_of(killed)[name], table_of(whole)[name], rtol=1e-4)
    assert not list(killed.glob(".*"))  # no lock, no half file
