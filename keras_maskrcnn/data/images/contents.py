"""What a file that cannot be read seems to be, by its bytes: for messages. Called by `decoding`."""

_START = 4096  # bytes to look at
_AGAIN = "Download or export it again, or remove it from the dataset."
_SAVE_AS = "Save it as JPEG or PNG."
_NO_IMAGE = "Put the image in its place, or remove it from the dataset."
_FRAMES = "Save its frames as JPEG or PNG."

# Images that Pillow or tifffile read: where a file starts like one, it is damaged.
_READABLE = {
    b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF",
    b"II+\0": "BigTIFF", b"MM\0+": "BigTIFF", b"\x93NUMPY": ".npy", b"8BPS": "Photoshop",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cjP  ": "JPEG 2000", b"P5": "PGM", b"P6": "PPM",
}  # fmt: skip
# Others, by their start: (what they are, the remedy).
_OTHERS = {
    b"\xff\x0a": ("a JPEG XL image", _SAVE_AS),
    b"\0\0\0\x0cJXL ": ("a JPEG XL image", _SAVE_AS),
    b"\x76\x2f\x31\x01": ("an OpenEXR image", "Save it as TIFF."),
    b"SIMPLE  =": ("a FITS file", "Save it as TIFF."),
    b"FUJIFILMCCD-RAW": ("a raw photo", _SAVE_AS),
    b"\0\x05\x16\x07": ("a companion file of macOS (AppleDouble, ._name)", "Remove it: the image itself has no ._."),
    b"\0\x05\x16\0": ("a companion file of macOS (AppleSingle)", "Remove it."),
    b"version https://git-lfs": ("a Git LFS pointer, not the file itself", "Fetch the file: git lfs pull."),
    b"%PDF": ("a PDF", "Save its pages as PNG."),
    b"%!PS": ("a PostScript file", _SAVE_AS),
    b"PK\x03\x04": ("a ZIP archive (or a document)", "Unpack it."),
    b"\x1f\x8b": ("a gzip archive", "Unpack it."),
    b"7z\xbc\xaf": ("a 7-Zip archive", "Unpack it."),
    b"Rar!": ("a RAR archive", "Unpack it."),
    b"\x89HDF": ("an HDF5 file", "Save its images as TIFF."),
    b"\x1a\x45\xdf\xa3": ("a video (Matroska or WebM)", _FRAMES),
    b"\0\0\x01\xba": ("a video (MPEG)", _FRAMES),
    b"\0\0\x01\xb3": ("a video (MPEG)", _FRAMES),
    b"FLV": ("a video (Flash)", _FRAMES),
    b"\x80\x04": ("a Python pickle", _NO_IMAGE),
    b"\x80\x05": ("a Python pickle", _NO_IMAGE),
}
_RIFF = {
    b"AVI ": ("a video (AVI)", _FRAMES),
    b"WAVE": ("a sound file", _NO_IMAGE),
    b"WEBP": ("a WebP that is cut off or damaged", _AGAIN),
}
# The brand of an ISO base media file, at byte 8.
_BRANDS = {
    (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"): ("a HEIC photo", _SAVE_AS),
    (b"avif", b"avis"): ("an AVIF image", _SAVE_AS),
    (b"crx ",): ("a raw photo", _SAVE_AS),
}
_TEXTS = (  # after white space, in lower case
    ((b"<!doctype html", b"<html", b"<head", b"<body"), "an HTML page", "Download the image itself (log in?)."),
    ((b"<svg",), "an SVG drawing", "Save it as PNG."),
    ((b"<?xml", b"<"), "an XML file", _NO_IMAGE),
    ((b"{", b"["), "a JSON file", _NO_IMAGE),
)  # fmt: skip


def seems_to_be(file):
    """What a file is that no library reads, and what to do about it.

    Args:
        file: binary file; its position is moved.

    Returns:
        (str such as "a HEIC photo", str of the remedy).
    """
    file.seek(0)
    start = file.read(_START)
    if not start:
        return "an empty file (0 bytes)", _AGAIN
    if not start.strip(b"\0") and _all_zero(file):
        return "a file of zeros, as failed copies and downloads leave", _AGAIN
    return _by_start(start) or _text(start) or ("a file of an unknown format", _AGAIN)


def _by_start(start):
    if start[4:8] == b"ftyp":
        brand = start[8:12]
        return next((found for brands, found in _BRANDS.items() if brand in brands), ("a video (MP4)", _FRAMES))
    if start[:4] == b"RIFF":
        return _RIFF.get(start[8:12])
    if start[128:132] == b"DICM":
        return "a DICOM file", "Save its image as PNG or TIFF."
    found = next((found for key, found in _OTHERS.items() if start.startswith(key)), None)
    readable = next((name for key, name in _READABLE.items() if start.startswith(key)), None)
    return found or (readable and (f"a {readable} that is cut off or damaged", _AGAIN))


def _text(start):
    lowered = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for keys, what, remedy in _TEXTS:
        if lowered.startswith(keys):
            if what == "an XML file" and b"<svg" in lowered:
                return "an SVG drawing", "Save it as PNG."
            return what, remedy
    is_text = all(byte >= 32 or byte in b"\t\n\r" for byte in start) and _is_utf8(start)
    return ("a text file", _NO_IMAGE) if is_text else None


def _is_utf8(start):
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > _START - 4  # the last letter is cut off
    return True


def _all_zero(file):
    return not any(block.strip(b"\0") for block in iter(lambda: file.read(2**20), b""))
