"""What a file of annotations may ask for at most, so that no file takes unbounded time or memory.

Each limit is far above what annotation tools write. Those of one outline's length are in `geometry/polygons.py`. Called
by the readers.
"""

YAML_BYTES = 2**20  # data.yaml; LVIS's 1203 names take 30 KB
YAML_DEPTH = 20
XML_BYTES = 2**22  # one image's objects
XML_DEPTH = 100
CSV_CELL = 2**26  # characters: a polygon of some million points
OUTLINE_POINTS = 1_000_000  # of one outline
UNCHECKED_PIXELS = 2**26  # of an image; larger stated sizes are compared with the file when the dataset is opened
LABEL_PIXELS = 2**27  # of a label image or a mask file
LABEL_COUNT = 100_000  # objects in a label image; a photo taken for one has as many colours
LABEL_SPREAD = 64  # areas of the image that the boxes around a label image's objects may have together
SEARCH_DEPTH = 4  # levels of sub-folders in which images are searched
SEARCH_FILES = 1_000_000  # files and folders in a folder that is searched


def check_count(count, limit, what):
    """Raise a ValueError if something is larger than its limit.

    Args:
        count, limit: int. what: str with the unit, such as "points in an outline".
    """
    if count > limit:
        raise ValueError(
            f"At most {limit} {what} are read. Received {count}. If the file is right, raise the limit in "
            "keras_maskrcnn/data/limits.py."
        )
