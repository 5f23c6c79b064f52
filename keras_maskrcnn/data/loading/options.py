"""How a loader orders, changes and batches images: every option of `DataLoader` in one place."""

import dataclasses

KINDS = ("thread", "process", "auto")
AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class LoaderOptions:
    """Options of `DataLoader`, which takes them as keywords as well.

    Args:
        augmentation: what happens after the loader's `transforms`: "light" or "strong" (`data.preset`), or a list of
            transforms; None is nothing.
        shuffle: new random order each epoch.
        seed: int, of order and transforms.
        workers: number of threads or processes that make batches ahead, or "auto": by the machine's cores and the data.
        worker_type: "thread", "process", or "auto", whichever is faster; None is "thread", and "auto" if `workers` is.
            Batches are the same. Processes scale with the cores; they receive dataset and transforms by pickle, so
            that functions and classes of your own must be in a module that can be imported.
        worker_timeout: seconds that a worker process may take for its start or a batch. Then it counts as hung.
        shard: (index, count), this host among several that train together: it gets its part of each batch, and
            `batch_size` counts the images of all. None is a single host.
        canvas: (H, W) network pixels, multiples of 32; None is the smallest that fits every image.
        max_instances: rows of ground truth per image; None takes the config's.
        drop_last: leave out a last batch that is not full. None does so when shuffling, where every image still comes
            up in other epochs.
        fill_last: fill a last batch up with rows without an image, which count in no loss: all batches have one shape,
            as several devices of JAX need it, which then compiles one step. With norm="batch" the black images enter
            the statistics of that batch.
        cache_bytes: decoded images and masks kept in memory up to this many bytes, so that small datasets are decoded
            once; 0 keeps none. A worker process keeps them only if all fit into its share.
        repeat_threshold: classes in a smaller share of the images are shown more often (LVIS' repeat factors,
            `epoch_order.repeat_factors`); None shows each image once an epoch.
        negatives: share of images without objects in an epoch, 0 to below 1; None keeps them as they are.
    """

    augmentation: object = None
    shuffle: bool = False
    seed: int = 0
    workers: int | str = 2
    canvas: tuple | None = None
    max_instances: int | None = None
    drop_last: bool | None = None
    fill_last: bool = False
    cache_bytes: int = 512 * 2**20
    repeat_threshold: float | None = None
    negatives: float | None = None
    worker_type: str | None = None
    worker_timeout: float = 600.0
    shard: tuple | None = None

    def __post_init__(self):
        """Check what the workers' options say."""
        if self.workers != AUTO and not (isinstance(self.workers, int) and self.workers >= 0):
            raise ValueError(
                f'workers is a number of threads or processes, or "auto". Received {self.workers!r}. Try "auto".'
            )
        if self.worker_type not in (None, *KINDS):
            raise ValueError(f"worker_type must be one of {KINDS}. Received {self.worker_type!r}. The default is None.")
        if not self.worker_timeout > 0:
            raise ValueError(
                f"worker_timeout is a positive number of seconds. Received {self.worker_timeout}. The default is 600."
            )

    @classmethod
    def of(cls, options=None, **fields):
        """Options from a LoaderOptions, keywords, or both; keywords override.

        Raises:
            ValueError: a keyword that is no option; options of another type.
        """
        if options is not None and not isinstance(options, cls):
            raise ValueError(
                f"`options` of DataLoader is a LoaderOptions. Received: {type(options).__name__}. "
                "Pass its fields as keywords: DataLoader(..., shuffle=True)."
            )
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(fields) - set(known))
        if unknown:
            raise ValueError(f"DataLoader has the options {known}. Received: {', '.join(unknown)}. Correct the name.")
        return dataclasses.replace(options or cls(), **fields)
