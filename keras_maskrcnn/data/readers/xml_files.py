"""Read an XML file of annotations: plain elements and text. Called by the reader of Pascal VOC.

Entities are refused, because they can multiply a small file to gigabytes or name other files. Nothing outside the file
is read.
"""

from xml.etree import ElementTree
from xml.parsers import expat

from keras_maskrcnn.data.limits import XML_BYTES, XML_DEPTH
from keras_maskrcnn.data.readers.fields import FaultyAnnotation
from keras_maskrcnn.data.readers.folders import read_bytes


def read_xml(path):
    """The root element of an XML file.

    Args:
        path: Path.

    Returns:
        xml.etree.ElementTree.Element.

    Raises:
        FaultyAnnotation: it is no XML, defines entities, is too large or nested too deep.
    """
    try:
        return _parse(read_bytes(path, XML_BYTES))
    except (expat.ExpatError, ValueError, LookupError, AssertionError) as error:  # LookupError: unknown encodings
        raise FaultyAnnotation(
            f"it is not a VOC annotation, or no XML that can be read: {error}.", "Write it again."
        ) from None


def _parse(data):
    builder = ElementTree.TreeBuilder()
    depth = 0

    def start(tag, attributes):
        nonlocal depth
        depth += 1
        if depth > XML_DEPTH:
            raise FaultyAnnotation(f"its elements are nested more than {XML_DEPTH} deep.", "Write it again.")
        builder.start(tag, attributes)

    def end(tag):
        nonlocal depth
        depth -= 1
        builder.end(tag)

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    parser.EntityDeclHandler = _refuse_entity
    parser.Parse(data, True)
    return builder.close()


def _refuse_entity(name, *_):
    raise FaultyAnnotation(f"it defines the entity {name!r}, which is not read.", "Write its text out.")
