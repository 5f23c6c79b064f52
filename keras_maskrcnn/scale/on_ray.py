"""Inference on Ray Data: units of images -> tasks that read them -> a pool of actors with the model -> a ResultStore.

Ray runs the tasks and actors on one machine or many, starts those again that die, and holds the readers back while the
actors are busy, so that memory does not grow with the input. The driver alone writes, so nothing is written twice.
Called by users and the command line.
"""

import contextlib
import dataclasses
import logging
import os
import pickle

from keras_maskrcnn.host.messages import argument
from keras_maskrcnn.scale.models import check_options, digest_of, read_fields
from keras_maskrcnn.scale.rows import RowPredictor
from keras_maskrcnn.scale.sources import list_units
from keras_maskrcnn.scale.store import ResultStore

_BYTES_ON_THE_WAY = 2**27  # of images that are read and of results, for each actor: else Ray fills its object store
_READERS = 4  # actors that one reading task keeps busy


class RunStopped(OSError):
    """Ray ended a run. What is finished is kept."""


@dataclasses.dataclass(frozen=True)
class Pool:
    """The actors.

    Args:
        actors: int, how many. cpus, gpus: of each, as Ray counts them. reader_cpus: of each task that reads.
    """

    actors: int
    cpus: float
    gpus: float
    reader_cpus: int = 0


def predict_on_ray(
    model,
    sources,
    output,
    score_threshold=None,
    tile=None,
    overlap=0.2,
    batch_size=None,
    actors=None,
    gpus=None,
    image_column=None,
    coco=False,
    progress=None,
):
    """Find the instances of many images, on all machines of a Ray cluster. It goes on where a killed run ended.

    A running cluster is used where Ray finds one (RAY_ADDRESS), else one is started on this machine.

    Args:
        model: `.keras` file, run folder or SavedModel, that all machines see under this name; or a function of no
            argument that returns a predictor.
        sources: list of image files, folders, lists and Parquet files, as `sources.list_units` takes them.
        output: folder or address of the results.
        score_threshold, tile, overlap, batch_size: as for RowPredictor.
        actors: int, processes with the model; None: one for each GPU, or for every four CPUs.
        gpus: float, of each actor; None: 1 if the cluster has any, else 0.
        image_column: str, of the images in Parquet files; None finds it.
        coco: whether to write detections.json and images.json as well.
        progress: function of the number of images that are finished, or None.

    Returns:
        ResultStore, closed, with the counts of all images.

    Raises:
        ValueError: no image, results of another model in `output`, or a cluster that is too small.
        RunStopped: an OSError: Ray ended the run, such as for a server that no longer answers.
        ImportError: Ray is not installed.
    """
    ray = need_ray()
    options = {"score_threshold": score_threshold, "tile": tile, "overlap": overlap}
    if not callable(model):
        check_options(model, **options)
    with ResultStore(output, _settings(model, options)) as store:
        told = progress or (lambda count: None)
        told(store.images)
        units = list_units(sources, store.is_new, column=image_column)
        if units:
            with _cluster(ray, store):
                pool = _choose_pool(ray.cluster_resources(), actors, gpus)
                tables = _flow(ray, units, pool, model, options | {"batch_size": batch_size})
                _keep(tables, sum(map(len, units)), store, told)
        if coco:
            store.write_coco()
    return store


def _settings(model, options):
    """What the results depend on, for the store: the model by its content, the score, and how images are cut."""
    own = model.__name__ if callable(model) else digest_of(model)[:16]
    return {"model": own} | options | ({} if options["tile"] else {"overlap": None})


def _keep(tables, wanted, store, told):
    """Add tables of results to the store as they come.

    Raises:
        RunStopped: they do not have `wanted` rows.
    """
    before = store.images
    for table in tables:
        store.add(table)
        told(store.images)
    if store.images - before != wanted:
        raise RunStopped(
            f"Ray must give a row for each image. Received {store.images - before} rows for {wanted} images. "
            f"Those in {store.place} are finished. Start it again, and it goes on from there."
        )


@contextlib.contextmanager
def _cluster(ray, store):
    """Connected to a cluster, inside this.

    Raises:
        RunStopped: Ray ended the run.
    """
    own = _connect(ray)
    try:
        yield
    except ray.exceptions.RayError as error:
        raise RunStopped(
            f"The processes of Ray must run to the end. Received: {_last_line(error)} {store.images} images "
            f"are finished in {store.place}. Start it again, and it goes on from there."
        ) from error
    finally:
        if own:
            ray.shutdown()


def _last_line(error):
    """The reason in an error of Ray, which shows the traceback of another process."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if line.partition(":")[0].endswith(("Error", "Exception", "Interrupt"))]
    return (reasons or lines or [type(error).__name__])[-1][:400]


def _flow(ray, units, pool, model, options):
    """Yield pyarrow.Table with the results of units, in any order."""
    import pyarrow

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.enable_operator_progress_bars = False
    limits = ray.data.ExecutionResources.for_limits(object_store_memory=_BYTES_ON_THE_WAY * max(2, pool.actors))
    context.execution_options.resource_limits = limits
    tables = [pyarrow.table({"unit": [pickle.dumps(unit)]}) for unit in units]
    readers = max(1, -(-pool.actors // _READERS)) if not pool.gpus else max(1, int(4 * pool.actors))
    # Readers wait for disks and servers more than they compute, and take no CPU from the actors. For GPUs they decode.
    read = ray.data.from_arrow(tables).map_batches(
        _reader(_pixels_of(model) if wants_pixels(pool) else None),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=pool.reader_cpus,
        compute=ray.data.TaskPoolStrategy(size=readers),
    )
    found = read.map_batches(
        RowPredictor,
        fn_constructor_args=(model,),
        fn_constructor_kwargs=options,
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=pool.actors),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus or None,
    )
    yield from found.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


def wants_pixels(pool):
    """Whether the reading tasks decode: for actors on GPUs. On CPUs an actor's own threads do, beside the model."""
    return pool.gpus > 0


def _reader(pixels):
    """The function of the reading tasks: from a table of one unit to tables of rows.

    Ray sends a function inside another by its code. So these processes import neither Keras nor a framework.

    Args:
        pixels: (channels, dtype) to decode the images; None leaves that to the model's process.
    """

    def read(table):
        import pickle

        import pyarrow

        from keras_maskrcnn_launcher import register_package

        register_package()
        from keras_maskrcnn.scale.sources import decoded

        kinds = {
            "path": pyarrow.string(), "bytes": pyarrow.large_binary(), "error": pyarrow.string(),
            "pixels": pyarrow.large_binary(), "shape": pyarrow.list_(pyarrow.int64()), "dtype": pyarrow.string(),
        }  # fmt: skip
        for unit in table["unit"].to_pylist():
            for columns in pickle.loads(unit).rows():
                rows = columns if pixels is None else decoded(columns, *pixels)
                yield pyarrow.table({name: pyarrow.array(values, kinds[name]) for name, values in rows.items()})

    return read


def _pixels_of(model):
    """(channels, dtype) of a model's images, from the config that its file holds."""
    if callable(model):
        return 3, "uint8"
    fields = read_fields(model)
    return fields.num_channels, fields.image_dtype


def _choose_pool(resources, actors, gpus):
    """How many actors, and what each gets.

    Args:
        resources: dict of the cluster's CPUs and GPUs. actors, gpus: as for `predict_on_ray`.

    Raises:
        ValueError: the cluster has not that many.
    """
    all_cpus, all_gpus = resources.get("CPU", 1), resources.get("GPU", 0)
    gpus = (1 if all_gpus else 0) if gpus is None else gpus
    actors = actors or max(1, int(all_gpus // gpus if gpus else all_cpus // 4))
    if gpus * actors > all_gpus:
        raise ValueError(
            f"{argument('actors')} of {gpus:g} GPUs each must fit on the cluster. Received {actors} actors for "
            f"{all_gpus:g} GPUs. Take fewer actors, or fewer GPUs each: {argument('gpus')}."
        )
    if actors > 4 * all_cpus:
        raise ValueError(
            f"{argument('actors')} must be at most four times the cluster's CPUs. "
            f"Received {actors} actors for {all_cpus:g} CPUs. Take fewer."
        )
    cpus = min(1.0 if gpus else all_cpus / actors, all_cpus * 0.9 / actors)  # Ray's own tasks must find room
    return Pool(actors, cpus, gpus, 1 if gpus and all_cpus - actors * cpus >= 1 else 0)


def _connect(ray):
    """Connect to a cluster, or start one. Returns whether it was done here."""
    if ray.is_initialized():
        return False
    names = ("KERAS_BACKEND", "KERAS_HOME", "TF_CPP_MIN_LOG_LEVEL")
    env = {"TF_CPP_MIN_LOG_LEVEL": "3"} | {name: os.environ[name] for name in names if name in os.environ}
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # notes of Ray's own on how it starts actors
    os.environ.setdefault("RAY_worker_niceness", "0")  # else actors give way to all else on the machine (nice 15)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    try:
        ray.init(**options, runtime_env={"env_vars": env})
    except Exception as error:  # Ray raises none of its own here; a busy machine takes longer than the 30 s it waits
        raise RunStopped(
            f"Ray must start, or find its cluster. Received: {_last_line(error)} Check RAY_ADDRESS and how busy this "
            "machine is, and start it again."
        ) from error
    return True


def need_ray():
    """The package ray. Raises ImportError with the command that installs it."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(
            f'Inference on Ray needs the package ray. Received: {error}. Install it: pip install "keras-maskrcnn[ray]".'
        ) from error
    return ray
