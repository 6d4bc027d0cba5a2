"""From the bytes of an upload to gray pixels, in a process of its own: whatever they do to it, the server lives.

`python decoding.py` reads jobs from its standard input and answers on its standard output, until the input ends.
A job and an answer are one JSON line and the bytes that it announces; `server.py` is the other end.
"""
import json
import math
import os
import re
import struct
import sys
from io import BytesIO

import numpy as np
from PIL import Image, PngImagePlugin
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import create_form_parser

MAX_PIXELS = 25_000_000  # of all images of a request together, by what their headers say: a photo has 12 million
MAX_SIDE = 20_000  # pixels
MAX_METADATA = 1_000_000  # bytes of a file that are not pixels (EXIF, color profile, notes)
MAX_PARTS = 5_000  # segments of a JPEG or chunks of a PNG: a photo has a dozen, or a thousand pieces of pixels
MAX_NOTES = 100  # parts that are not pixels
MAX_SCANS = 30  # passes over the pixels that a JPEG may order: a photo has 1, a progressive one about 10
MEMORY = 2**30  # bytes of address space beyond what the process has when it is ready
REDUCED = 1024  # pixels: a larger picture is first averaged over whole blocks
FORMATS = ("PNG", "JPEG")  # decoders that a stranger's bytes may reach
ORIENTATION = 0x0112  # the EXIF tag
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}  # what shows a picture of that orientation upright

Image.MAX_IMAGE_PIXELS = None  # open_image counts them itself
PngImagePlugin.MAX_TEXT_MEMORY = PngImagePlugin.MAX_TEXT_CHUNK = MAX_METADATA


class Refused(Exception):
    """An upload that is not answered: the HTTP status (4xx) and one sentence that says what to do."""

    def __init__(self, status, detail):
        super().__init__(status, detail)
        self.status, self.detail = status, detail


# ---- the form


def files_of(content_type, body, field):
    """The contents of the files in a multipart form, in order. Refused if it is damaged or holds anything else."""
    contents = []

    def keep(file):
        if (file.field_name or b"") != field.encode():
            raise Refused(422, f"unexpected field: the images go into `{field}`")
        contents.append(file.file_object.getvalue())

    def complain(_):
        raise Refused(422, f"send a form with files in the field `{field}`, nothing else")

    everything = len(body) + 1  # bytes of a file that stay in memory: all
    try:
        parser = create_form_parser({"Content-Type": content_type.encode()}, complain, keep,
                                    {"MAX_MEMORY_FILE_SIZE": everything, "MAX_FIELD_SIZE": everything})
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise Refused(422, "the form is damaged (multipart/form-data)") from error
    return contents


# ---- the parts of a file, before a decoder sees them


def parts_of_png(content):
    """(kind, bytes) of each chunk of a PNG, as far as it goes."""
    place, kind = 8, b""
    while place + 8 <= len(content) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, place)
        yield kind, length
        place += length + 12


def parts_of_jpeg(content):
    """(marker, bytes) of each segment of a JPEG to the end of its first picture; what fills the gap before it counts."""
    marker = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")  # those that have a length
    place, kind = 2, b""
    while kind != b"\xd9" and (found := marker.search(content, place)):
        kind, end = found[1], found.end() + int.from_bytes(content[found.end():found.end() + 2], "big")
        yield kind, end - place
        place = end


PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
SCAN, PIXEL_SEGMENTS = b"\xda", {bytes([code]) for code in (*range(0xC0, 0xD0), 0xD9, 0xDA, 0xDB, 0xDD)}


def check_parts(content):
    """Raise Refused for a file whose parts alone would keep a decoder busy: too many, or too much beside the pixels."""
    png = content.startswith(b"\x89PNG")
    count = notes = metadata = scans = 0
    for kind, length in parts_of_png(content) if png else parts_of_jpeg(content):
        count += 1
        if kind not in (PIXEL_CHUNKS if png else PIXEL_SEGMENTS):
            notes += 1
        if (kind not in PIXEL_CHUNKS) if png else scans == 0:  # behind the first scan, pixels fill the gaps
            metadata += length
        scans += not png and kind == SCAN
        if scans > MAX_SCANS:
            raise Refused(413, f"a JPEG in more than {MAX_SCANS} scans: save the image again, not progressively")
        if count > MAX_PARTS or notes > MAX_NOTES or metadata > MAX_METADATA:
            raise Refused(413, "too much beside the pixels (notes, profiles, EXIF): save the image again without them")


# ---- pixels


def open_image(content):
    """Bytes of an upload -> an image whose header was read, its pixels not. Raises Refused."""
    if not content:
        raise Refused(400, "the file is empty")
    check_parts(content)
    try:
        image = Image.open(BytesIO(content), formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        raise Refused(415, f"not an image in a format that is read here: {' or '.join(FORMATS)}") from error
    except MemoryError:
        raise
    except Exception as error:  # whatever a decoder raises on a stranger's bytes, the bytes are at fault
        raise Refused(422, "the image is damaged, or too much text comes before its pixels") from error
    if max(image.size) > MAX_SIDE:
        raise Refused(413, f"a side of more than {MAX_SIDE} pixels: send a smaller image")
    return image


def orientation_of(image):
    """The EXIF orientation, 1 where there is none or it cannot be read; nothing else of the EXIF is looked at."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged metadata are no reason to refuse good pixels
        return 1


def gray_pixels(image):
    """An opened image -> (h, w) uint8, 0 is black; upright, transparent parts black, at most REDUCED pixels a side."""
    try:
        image.load()
        turn = TURNS.get(orientation_of(image))
        if image.mode.startswith(("I", "F")):  # 16 bits for each pixel
            image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
        elif image.mode not in ("L", "RGB", "CMYK", "YCbCr"):
            image = image.convert("RGB")  # colors of a palette have no mean
        image = image.reduce(math.ceil(max(image.size) / REDUCED))
        if image.mode == "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
        image = image.convert("L")
        return np.array(image.transpose(turn) if turn else image)
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise Refused(422, "the image is damaged: its pixels cannot be decoded") from error


def each(function, items):
    """[function(item), …]; what is refused says which item, where there are several."""
    results = []
    for number, item in enumerate(items, start=1):
        try:
            results.append(function(item))
        except Refused as error:
            which = f"file {number}: " if len(items) > 1 else ""
            raise Refused(error.status, which + error.detail) from error
    return results


def decode(content_type, body, field, most):
    """A form with 1 to `most` files in `field` -> their pixels, (h, w) uint8 each. Raises Refused, for all together."""
    contents = files_of(content_type, body, field)
    if not contents:
        raise Refused(422, f"send a form (multipart/form-data) with an image in the field `{field}`")
    if len(contents) > most:
        raise Refused(413, f"more than {most} file{'s' if most > 1 else ''}: send fewer at once")
    images = each(open_image, contents)
    if sum(image.width * image.height for image in images) > MAX_PIXELS:
        raise Refused(413, f"more than {MAX_PIXELS // 10**6} megapixels: send a smaller image, or fewer")
    return each(gray_pixels, images)


# ---- the process


def limit_memory():
    """Let this process take MEMORY more than it has, where the system can hold it to that (Linux)."""
    if sys.platform == "linux":
        import resource

        with open("/proc/self/statm") as file:
            has = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (has + MEMORY, has + MEMORY))


def answer(job, body):
    """The answer to a job: a dict for the JSON line, and the pixels of all images, one behind the other."""
    try:
        images = decode(job["content_type"], body, job["field"], job["most"])
        return {"status": 200, "shapes": [image.shape for image in images]}, b"".join(map(np.ndarray.tobytes, images))
    except Refused as error:
        return {"status": error.status, "detail": error.detail}, b""
    except MemoryError:
        return {"status": 413, "detail": "the image takes too much memory: send a smaller one"}, b""


def main():
    """Answer jobs until the input ends."""
    jobs, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing that a library prints gets among the answers
    Image.init()
    limit_memory()
    while line := jobs.readline():
        job = json.loads(line)
        reply, pixels = answer(job, jobs.read(job["bytes"]))
        answers.write(json.dumps({**reply, "bytes": len(pixels)}).encode() + b"\n" + pixels)
        answers.flush()


if __name__ == "__main__":
    main()
