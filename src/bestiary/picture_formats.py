"""Formats of picture files that are read, and the suffixes that they go by."""

from __future__ import annotations

# Raster formats only: Pillow would start Ghostscript for EPS. A phone's MPO starts with a JPEG and is opened as one;
# HEIC is opened by pillow-heif (`bestiary.heif`).
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "ICO", "TGA", "JPEG2000", "AVIF")
SUFFIXES = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"},
    "MPO": {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"},
    "PNG": {".png", ".apng"},
    "GIF": {".gif"},
    "BMP": {".bmp", ".dib"},
    "PPM": {".ppm", ".pgm", ".pbm", ".pnm"},
    "WEBP": {".webp"},
    "TIFF": {".tif", ".tiff"},
    "ICO": {".ico"},
    "TGA": {".tga"},
    "JPEG2000": {".jp2", ".j2k", ".jpx", ".jpf"},
    "AVIF": {".avif"},
    "HEIF": {".heic", ".heif", ".hif"},
}
PICTURE_SUFFIXES = frozenset().union(*SUFFIXES.values())
