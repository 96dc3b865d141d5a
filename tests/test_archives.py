import io
import os
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import polars as pl
import pytest

from bestiary.context import Context
from bestiary.data import archive_members, archives, sources
from bestiary.data.label_map import ANIMALS10
from bestiary.data.scan import scan_pictures
from bestiary.data.sources import PictureList, list_sources
from bestiary.demo.dataset import SyntheticDataset
from bestiary.errors import MachineError, SourceError, UserError
from bestiary.files import cache_folder
from bestiary.picture import DecodeLimits

KINDS = ("zip", "tar", "tar.gz", "tgz", "tar.bz2", "tar.xz")
TWO_CLASSES = {"cat/a.jpg": b"a" * 3000, "dog/b.jpg": b"b" * 700}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache for each test, so that it can be looked at."""
    monkeypatch.setenv("BESTIARY_CACHE", str(tmp_path / "cache"))
    return cache_folder() / "archives"


def packed(path: Path, files: Mapping[str, bytes]) -> Path:
    """An archive of the kind that its name says, with these members in this order."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    compression = {".gz": "gz", ".tgz": "gz", ".bz2": "bz2", ".xz": "xz"}.get(path.suffix, "")
    with tarfile.open(path, f"w:{compression}") as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def with_entry(path: Path, entry: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("cat/a.jpg"))
        archive.addfile(entry)
    return path


def listed(source: Path) -> PictureList:
    return list_sources([source], {})


def names(listing: PictureList) -> list[str]:
    """Paths below the folder of the members."""
    return [path.as_posix().split("/pictures/", 1)[1] for path in (p.path for p in listing.pictures)]


def refused(source: Path, message: str, error: type[UserError] = SourceError) -> None:
    """It ends in one message, and neither the cache nor the folder of the archive holds anything new."""
    before = {path for path in source.parent.iterdir() if path.name != "cache"}
    with pytest.raises(error, match=message):
        listed(source)
    assert {path for path in source.parent.iterdir() if path.name != "cache"} == before
    assert not list((cache_folder() / "archives").glob("*"))


# ---------------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_is_listed_like_a_folder(tmp_path: Path, cache: Path, kind: str) -> None:
    source = packed(tmp_path / f"pets.{kind}", TWO_CLASSES)
    listing = listed(source)
    assert names(listing) == ["cat/a.jpg", "dog/b.jpg"]
    assert [(p.label, p.split) for p in listing.pictures] == [("cat", None), ("dog", None)]
    assert [p.path.read_bytes() for p in listing.pictures] == list(TWO_CLASSES.values())
    assert all(p.path.is_relative_to(cache) for p in listing.pictures)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", source.name]


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_split_folders_in_one_top_folder_are_found(tmp_path: Path, kind: str) -> None:
    files = {"data/pets/train/cat/a.jpg": b"1", "data/pets/test/cat/b.jpg": b"2", "data/README.md": b"3"}
    listing = listed(packed(tmp_path / f"pets.{kind}", files))
    assert [(p.path.name, p.label, p.split) for p in listing.pictures] == [
        ("b.jpg", "cat", "test"),
        ("a.jpg", "cat", "train"),
    ]


def test_the_collection_as_it_is_downloaded_by_hand_is_understood(tmp_path: Path) -> None:
    files = {f"raw-img/{label}/1.jpeg": label.encode() for label in ANIMALS10} | {"translate.py": b"{}"}
    listing = list_sources([packed(tmp_path / "archive.zip", files)], ANIMALS10)
    assert listing.labels() == sorted(ANIMALS10.values())
    assert dict(listing.skipped) == {"beside the class folders": 1}


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_what_is_not_meant_as_a_picture_stays_packed_and_is_counted(tmp_path: Path, cache: Path, kind: str) -> None:
    extra = ["cat/Thumbs.db", "cat/.DS_Store", "__MACOSX/cat/._a.jpg", ".git/x.jpg", "cat/a.txt", "notes.md"]
    source = packed(tmp_path / f"pets.{kind}", TWO_CLASSES | dict.fromkeys(extra, b"x"))
    first, again = listed(source), listed(source)
    assert names(first) == ["cat/a.jpg", "dog/b.jpg"]
    assert dict(first.skipped) == {"not meant as pictures": 3, "hidden": 1, "hidden folder": 2}
    assert again == first
    assert len([path for path in cache.rglob("*") if path.is_file()]) == 3  # two pictures and the note


def test_what_an_archive_is_its_content_says_not_its_name(tmp_path: Path) -> None:
    packed(tmp_path / "really.tgz", TWO_CLASSES).rename(tmp_path / "called.zip")
    assert names(listed(tmp_path / "called.zip")) == ["cat/a.jpg", "dog/b.jpg"]
    packed(tmp_path / "really.zip", TWO_CLASSES).rename(tmp_path / "called.TAR")
    assert names(listed(tmp_path / "called.TAR")) == ["cat/a.jpg", "dog/b.jpg"]


def test_folders_in_an_archive_may_be_members_themselves_and_paths_may_begin_with_a_dot(tmp_path: Path) -> None:
    (tmp_path / "pets" / "cat" / "more").mkdir(parents=True)
    (tmp_path / "pets" / "cat" / "more" / "a.jpg").write_bytes(b"a")
    (tmp_path / "pets" / "dog").mkdir()
    with tarfile.open(tmp_path / "pets.tar", "w") as archive:
        archive.add(tmp_path / "pets", ".")
    shutil.make_archive(str(tmp_path / "pets"), "zip", tmp_path / "pets")
    for kind in ("tar", "zip"):
        assert names(listed(tmp_path / f"pets.{kind}")) == ["cat/more/a.jpg"]


def test_an_archive_goes_through_to_the_picture_table(
    collection: SyntheticDataset, tmp_path: Path, cache: Path
) -> None:
    source = Path(shutil.make_archive(str(tmp_path / "drawn"), "zip", collection.folder.parent, collection.folder.name))
    known = [
        scan_pictures(listed(one), DecodeLimits(), Context(threads=1, cache=None))
        for one in (source, collection.folder)
    ]
    assert known[0].select("label", "sha256", "phash").equals(known[1].select("label", "sha256", "phash"))


# --------------------------------------------------------------------------------------------------- unpacked once


def test_an_archive_is_unpacked_once_and_again_when_it_has_changed(tmp_path: Path, cache: Path) -> None:
    source = packed(tmp_path / "pets.zip", TWO_CLASSES)
    first = listed(source).pictures[0].path
    made = first.stat().st_ino, first.stat().st_mtime_ns
    assert listed(source).pictures[0].path == first
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == made
    packed(source, {"cat/new.jpg": b"n"})
    assert names(listed(source)) == ["cat/new.jpg"]
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("damage", ["picture gone", "picture cut", "note gone", "note spoilt"])
def test_a_cache_that_was_cleaned_in_part_is_made_again(tmp_path: Path, cache: Path, damage: str) -> None:
    source = packed(tmp_path / "pets.zip", TWO_CLASSES)
    picture = listed(source).pictures[0].path
    note = next(cache.glob("*/unpacked.json"))
    if damage == "picture cut":
        picture.write_bytes(b"")
    elif damage == "note spoilt":
        note.write_text("[1]")
    else:
        (picture if damage == "picture gone" else note).unlink()
    assert names(listed(source)) == ["cat/a.jpg", "dog/b.jpg"]
    assert picture.read_bytes() == TWO_CLASSES["cat/a.jpg"]


def test_a_killed_unpacking_is_never_used_and_removed_after_a_day(tmp_path: Path, cache: Path) -> None:
    source = packed(tmp_path / "pets.zip", TWO_CLASSES)
    program = (
        "import os\nfrom pathlib import Path\nfrom bestiary.data import archives, sources\n"
        "def die(*given): os._exit(9)\n"
        f"whole, archives._write = archives._write, lambda m, *rest: die() if 'dog' in m.name else whole(m, *rest)\n"
        f"sources.list_sources([Path({str(source)!r})], {{}})"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    (left,) = cache.iterdir()
    assert left.name.startswith(".")
    assert (left / "pictures" / "cat" / "a.jpg").exists()
    assert names(listed(source)) == ["cat/a.jpg", "dog/b.jpg"]
    assert left.exists()  # somebody may be at it
    old = time.time() - 2 * archives.LEFTOVER_SECONDS
    os.utime(left, (old, old))
    packed(source, {"cat/new.jpg": b"n"})
    assert names(listed(source)) == ["cat/new.jpg"]
    assert not left.exists()


def test_an_interrupted_unpacking_leaves_nothing(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(archives, "_write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        listed(packed(tmp_path / "pets.zip", TWO_CLASSES))
    assert list(cache.iterdir()) == []


def test_whoever_is_quicker_at_the_same_archive_is_used(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, write = packed(tmp_path / "pets.zip", TWO_CLASSES), archives._write

    def meanwhile(member: archive_members.ArchiveMember, target: Path, archive: Path) -> None:
        monkeypatch.setattr(archives, "_write", write)
        listed(source)  # the other process
        write(member, target, archive)

    monkeypatch.setattr(archives, "_write", meanwhile)
    assert names(listed(source)) == ["cat/a.jpg", "dog/b.jpg"]
    assert len(list(cache.iterdir())) == 1


def test_an_archive_that_changes_while_it_is_unpacked_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, write = packed(tmp_path / "pets.zip", TWO_CLASSES), archives._write

    def touched(member: archive_members.ArchiveMember, target: Path, archive: Path) -> None:
        write(member, target, archive)
        os.utime(source, (1, 1))

    monkeypatch.setattr(archives, "_write", touched)
    refused(source, r"pets\.zip changed while it was unpacked")


# ------------------------------------------------------------------------------------------ what must not be trusted


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.parametrize("name", ["../../x.jpg", "/etc/x.jpg", "cat/../../x.jpg", "C:/x.jpg", "c:x.jpg", "..\\x.jpg"])
def test_members_that_reach_outside_are_refused(tmp_path: Path, kind: str, name: str) -> None:
    source = packed(tmp_path / f"evil.{kind}", TWO_CLASSES | {name: b"x"})
    refused(source, r"evil\..* contains .*x\.jpg\", which would be written outside")


@pytest.mark.parametrize(
    ("kind", "called"),
    [
        (tarfile.SYMTYPE, "link"),
        (tarfile.LNKTYPE, "link"),
        (tarfile.CHRTYPE, "special file"),
        (tarfile.FIFOTYPE, "special file"),
        (b"?", "special file"),
    ],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes, called: str) -> None:
    entry = tarfile.TarInfo("cat/evil.jpg")
    entry.type, entry.linkname = kind, "/etc/passwd"
    refused(with_entry(tmp_path / "evil.tar", entry), rf'contains "cat/evil\.jpg", which is a {called}, not a file')


@pytest.mark.parametrize(("kind", "called"), [(stat.S_IFLNK, "link"), (stat.S_IFCHR, "special file")])
def test_links_and_devices_in_a_zip_are_refused(tmp_path: Path, kind: int, called: str) -> None:
    entry = zipfile.ZipInfo("cat/evil.jpg")
    entry.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    refused(tmp_path / "evil.zip", rf'contains "cat/evil\.jpg", which is a {called}, not a file')


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    source = packed(tmp_path / "secret.zip", TWO_CLASSES)
    content = bytearray(source.read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := content.find(mark, at + 1)) >= 0:
            content[at + flags] |= 1
    source.write_bytes(content)
    refused(source, r"secret\.zip is encrypted\. Unpack it with its password")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_truncated_archive_is_refused_wherever_it_ends(tmp_path: Path, kind: str, share: float) -> None:
    rough = {f"cat/{number}.jpg": os.urandom(4000) for number in range(20)}
    source = packed(tmp_path / f"part.{kind}", rough)
    whole = source.read_bytes()
    source.write_bytes(whole[: int(len(whole) * share * (0.9 if kind == "tar" else 1))])  # a tar ends in zeros
    refused(source, r"part\..* cannot be read as an archive: .*\. It is damaged, incomplete, or in")


def test_a_tar_that_ends_between_two_members_is_truncated_too(tmp_path: Path) -> None:
    source = packed(tmp_path / "part.tar", {"cat/a.jpg": bytes(512), "cat/b.jpg": b"b"})
    source.write_bytes(source.read_bytes()[:1024])
    refused(source, r"the end-of-archive block is missing, or a header is damaged")


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_member_is_noticed(tmp_path: Path, kind: str) -> None:
    source = packed(tmp_path / f"bad.{kind}", {f"cat/{number}.jpg": os.urandom(4000) for number in range(20)})
    content = bytearray(source.read_bytes())
    middle = len(content) // 2 // 512 * 512
    content[middle : middle + 4608] = os.urandom(4608)  # more than a member: a header of the tar is among it
    source.write_bytes(content)
    refused(source, r"bad\..* cannot be read as an archive: ")


@pytest.mark.parametrize("name", ["no.zip", "no.tar", "no.tar.gz", "no.tar.xz"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x1f\x8b", b"<html>404</html>" * 99])
def test_what_is_no_archive_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, r"no\..* cannot be read as an archive: .*Download or pack it again")


def test_an_archive_without_pictures_is_told(tmp_path: Path) -> None:
    source = packed(tmp_path / "empty.zip", {"notes.txt": b"x"})
    with pytest.raises(SourceError, match=r"no labelled pictures in .*empty\.zip \(skipped: 1 .*\)"):
        listed(source)


def test_an_unknown_compression_is_told(tmp_path: Path) -> None:
    source = packed(tmp_path / "odd.zip", TWO_CLASSES)
    content = source.read_bytes()
    for mark, method in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = content.find(mark)
        content = content[: at + method] + struct.pack("<H", 9) + content[at + method + 2 :]
    source.write_bytes(content)
    refused(source, r"odd\.zip cannot be read as an archive: .*compression.*unpack it by hand")


# ----------------------------------------------------------------------------------------------------------- too much


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_too_many_members_are_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_members, "MAX_MEMBERS", 5)
    refused(packed(tmp_path / f"many.{kind}", {f"cat/{n}.jpg": b"" for n in range(6)}), "has more than 5 members")
    assert len(listed(packed(tmp_path / f"few.{kind}", {f"cat/{n}.jpg": b"" for n in range(5)})).pictures) == 5


def test_a_zip_that_says_it_has_a_million_members_is_refused_before_they_are_read(tmp_path: Path) -> None:
    end64 = struct.pack("<4sQHHLLQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 10**6, 10**6, 47 * 10**6, 0)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 1)
    end = struct.pack("<4sHHHHLLH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    (tmp_path / "many.zip").write_bytes(b"PK\x03\x04" + end64 + locator + end)
    refused(tmp_path / "many.zip", r"many\.zip has more than 500,000 members")
    lying = struct.pack("<4sHHHHLLH", b"PK\x05\x06", 0, 0, 5, 5, archive_members.MAX_DIRECTORY_BYTES + 1, 0, 0)
    (tmp_path / "lie.zip").write_bytes(b"PK\x03\x04" + lying)
    refused(tmp_path / "lie.zip", r"lie\.zip cannot be read as an archive: its central directory has 67 MB")


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.xz"])
def test_a_bomb_is_refused_by_the_size_that_it_declares(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "RATIO_FROM_BYTES", 10**6)
    source = packed(tmp_path / f"bomb.{kind}", {f"cat/{number}.bmp": bytes(10**6) for number in range(3)})
    assert archives.MAX_RATIO * source.stat().st_size < 3 * 10**6
    refused(source, r"bomb\..* has 0\.0 MB and unpacks to \d MB or more; 1 MB are allowed")
    monkeypatch.setattr(archives, "RATIO_FROM_BYTES", 10**7)
    assert len(listed(source).pictures) == 3
    monkeypatch.setattr(archives, "MAX_UNPACKED_BYTES", 10**6)
    source.touch()
    with pytest.raises(SourceError, match="1 MB are allowed"):
        listed(source)


def test_a_zip_that_understates_its_sizes_writes_no_more_than_it_said(tmp_path: Path) -> None:
    source = packed(tmp_path / "liar.zip", {"cat/a.jpg": bytes(10**6)})
    content = source.read_bytes()
    source.write_bytes(content.replace(struct.pack("<L", 10**6), struct.pack("<L", 100)))
    refused(source, r"liar\.zip cannot be read as an archive: ")


@pytest.mark.parametrize("given", [b"aaa", b"aaaaaaa"])
def test_real_bytes_are_counted_while_they_are_written(tmp_path: Path, given: bytes) -> None:
    member = archive_members.ArchiveMember("cat/a.jpg", "file", 5, lambda: io.BytesIO(given))
    with pytest.raises(SourceError, match=r'size mismatch for "cat/a\.jpg": its header says 5 bytes'):
        archives._write(member, tmp_path / "a.jpg", tmp_path / "lie.zip")


def test_a_tar_header_of_any_size_is_not_read_into_memory(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 10**9
    (tmp_path / "long.tar").write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    # Since Python 3.14 tarfile reads such a header in pieces itself, and so meets the end of the file.
    refused(tmp_path / "long.tar", r"a header declares a size of 1,000,000,\d+ bytes|archive: empty header")


def test_a_negative_size_does_not_turn_the_reader_around(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("cat/a.jpg")
    header = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 11 + b"\x00"  # -256 in base 256
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "back.tar").write_bytes(bytes(header) + bytes(1024))
    refused(tmp_path / "back.tar", r"back\.tar cannot be read as an archive: ")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_disk_without_room_is_told_before_it_is_full(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 0, archives.KEEP_FREE_BYTES + 1000))
    source = packed(tmp_path / f"pets.{kind}", TWO_CLASSES | {"cat/large.jpg": os.urandom(5000)})
    refused(source, r"Unpacking .*pets\..* needs 0 MB, and 268 MB are free at .*Free some space", MachineError)


def test_a_disk_that_is_full_after_all_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(28, "No space left on device")

    member = archive_members.ArchiveMember("cat/a.jpg", "file", 5, Full)
    with pytest.raises(MachineError, match=r'"cat/a\.jpg" of .*x\.zip cannot be written into the cache: No space left'):
        archives._write(member, tmp_path / "a.jpg", tmp_path / "x.zip")


@pytest.mark.slow
def test_memory_stays_flat_however_large_the_members_are(tmp_path: Path) -> None:
    source = tmp_path / "large.zip"
    with zipfile.ZipFile(source, "w") as archive, archive.open("cat/a.bmp", "w") as out:
        for _ in range(256):
            out.write(os.urandom(2**20))
    program = (
        "import resource, sys\nfrom pathlib import Path\nfrom bestiary.data.sources import list_sources\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\nbefore = peak()\n"
        "list_sources([Path(sys.argv[1])], {})\nprint(peak() - before)"
    )
    answer = subprocess.run([sys.executable, "-c", program, source], capture_output=True, text=True, check=True)
    assert int(answer.stdout) < 32 * 1024  # kilobytes


# -------------------------------------------------------------------------------------------------------------- names


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow fewer names")
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_odd_names_are_only_names(tmp_path: Path, kind: str) -> None:
    odd = ["cät/🐈.jpg", "cät/line\nbreak.jpg", f"cät/{'n' * 251}.jpg", "猫 1/a.jpg", "猫 1/-rf.jpg"]
    listing = listed(packed(tmp_path / f"odd.{kind}", {name: name.encode() for name in odd}))
    assert sorted(names(listing)) == sorted(odd)
    assert listing.labels() == ["cät", "猫 1"]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_name_that_is_too_long_for_the_disk_is_told(tmp_path: Path, kind: str) -> None:
    source = packed(tmp_path / f"long.{kind}", {f"cat/{'n' * 300}.jpg": b"x"})
    refused(source, r'"cat/n+…n+\.jpg" of .* cannot be written into the cache: ', MachineError)


def test_a_tar_with_names_that_are_not_utf8_reads_them_as_latin1(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("chien")
    header = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    header[:12] = b"chat\xe9/\xe9a.jpg"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "old.tar").write_bytes(bytes(header) + bytes(1024))
    listing = listed(tmp_path / "old.tar")
    assert names(listing) == ["chaté/éa.jpg"]
    assert listing.labels() == ["chaté"]


def test_a_zip_whose_names_are_utf8_without_saying_so_is_read_as_meant(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("cxxt/a.jpg")
    with zipfile.ZipFile(tmp_path / "mac.zip", "w") as archive:
        archive.writestr(entry, b"x")
    content = (tmp_path / "mac.zip").read_bytes()
    (tmp_path / "mac.zip").write_bytes(content.replace(b"cxxt", "cät".encode()))
    assert listed(tmp_path / "mac.zip").labels() == ["cät"]
    (tmp_path / "dos.zip").write_bytes(content.replace(b"cxxt", b"c\x84xt"))
    assert listed(tmp_path / "dos.zip").labels() == ["cäxt"]


def test_a_zip_that_says_its_names_are_utf8_when_they_are_not_is_told(tmp_path: Path) -> None:
    source = packed(tmp_path / "bad.zip", {"cät/a.jpg": b"x"})
    source.write_bytes(source.read_bytes().replace("ä".encode(), b"\xe4\xe4"))
    refused(source, r"bad\.zip cannot be read as an archive: .*utf-8")


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_that_differ_in_case_only_are_both_kept(tmp_path: Path, kind: str) -> None:
    files = {"cat/a.jpg": b"1", "cat/A.jpg": b"2", "cat/a~2.jpg": b"3", "cat/A.JPG": b"4"}
    listing = listed(packed(tmp_path / f"case.{kind}", files))
    found = {p.path.name: p.path.read_bytes() for p in listing.pictures}
    assert sorted(found.values()) == [b"1", b"2", b"3", b"4"]
    assert len({name.casefold() for name in found}) == 4
    assert (found["a.jpg"], found["A~2.jpg"]) == (b"1", b"2")


def test_a_member_that_is_there_twice_is_kept_twice(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "twice.tar", "w") as archive:
        for content in (b"1", b"22"):
            entry = tarfile.TarInfo("cat/a.jpg")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    assert names(listed(tmp_path / "twice.tar")) == ["cat/a.jpg", "cat/a~2.jpg"]


@pytest.mark.parametrize("pair", [("cat", "Cat"), ("caf\u00e9", "cafe\u0301")])
def test_folders_that_differ_in_case_or_accents_only_are_told(tmp_path: Path, pair: tuple[str, str]) -> None:
    source = packed(tmp_path / "case.zip", {f"{folder}/{folder}.jpg": b"x" for folder in pair})
    refused(source, r"has the folders .* and .*, which are the same on some file systems")


def test_a_member_that_is_a_file_and_a_folder_is_told(tmp_path: Path) -> None:
    refused(packed(tmp_path / "both.zip", {"cat": b"x", "cat/a.jpg": b"x"}), r'"cat/a\.jpg" of .*both', MachineError)


# --------------------------------------------------------------------------------------------- what sources have new


def planted(folder: Path, *paths: str) -> Path:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(path.encode("utf-8", "surrogateescape"))
    return folder


def test_one_folder_around_the_classes_is_looked_through(tmp_path: Path) -> None:
    planted(tmp_path / "a", "raw-img/cane/1.jpg", "raw-img/gatto/2.jpg", "translate.py", "__MACOSX/x.jpg")
    assert list_sources([tmp_path / "a"], ANIMALS10).labels() == ["cat", "dog"]
    planted(tmp_path / "b", "x/y/train/cat/1.jpg", "x/y/test/cat/2.jpg")
    assert [p.split for p in listed(tmp_path / "b").pictures] == ["test", "train"]


@pytest.mark.parametrize(
    "paths",
    [
        ["cat/1/a.jpg", "cat/2/b.jpg", "cat/c.jpg"],  # pictures in the folder itself
        ["cat/1/a.jpg", "cat/2/b.jpg", "stray.png"],  # and beside it
        ["cat/1/a.jpg", "cat/.hidden/b.jpg"],  # one folder only
    ],
)
def test_one_folder_that_may_be_a_class_is_a_class(tmp_path: Path, paths: list[str]) -> None:
    assert listed(planted(tmp_path / "one", *paths)).labels() == ["cat"]


def test_sources_are_merged_and_equal_labels_join(tmp_path: Path) -> None:
    first = planted(tmp_path / "first", "cane/1.jpg", "gatto/2.jpg", "gatto/notes.txt")
    second = packed(tmp_path / "second.zip", {"more/cat/3.jpg": b"3", "more/cow/4.jpg": b"4", "more/cow/.x": b""})
    third = tmp_path / "third.csv"
    third.write_text("path,label\nfirst/cane/1.jpg,dog\nelse/5.jpg,dog\nelse/5.jpg,dog\n")
    merged = list_sources([first, second, third], {"cane": "dog", "gatto": "cat"})
    assert sorted((p.path.name, p.label) for p in merged.pictures) == [
        ("1.jpg", "dog"),
        ("2.jpg", "cat"),
        ("3.jpg", "cat"),
        ("4.jpg", "cow"),
        ("5.jpg", "dog"),
    ]
    assert [str(p.path) for p in merged.pictures] == sorted(str(p.path) for p in merged.pictures)
    assert dict(merged.skipped) == {"not meant as pictures": 1, "hidden": 1, "listed twice": 2}


def test_two_spellings_of_a_path_are_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(tmp_path / "pets", "cat/1.jpg", "dog/2.jpg")
    monkeypatch.chdir(tmp_path)
    merged = list_sources([tmp_path / "pets", Path("pets"), Path("pets/../pets")], {})
    assert len(merged.pictures) == 2
    assert merged.skipped == {"listed twice": 4}


def test_a_file_with_two_labels_stays_two_rows_so_that_the_conflict_is_found(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,label\na.jpg,cat\na.jpg,dog\na.jpg,cat\n")
    listing = listed(tmp_path / "t.csv")
    assert [(p.path.name, p.label) for p in listing.pictures] == [("a.jpg", "cat"), ("a.jpg", "dog")]
    assert dict(listing.skipped) == {"listed twice": 1}


def test_a_single_folder_among_several_sources_is_a_class_and_not_looked_through(tmp_path: Path) -> None:
    one = planted(tmp_path / "one", "cat/2021/1.jpg", "cat/2022/2.jpg")
    other = planted(tmp_path / "other", "dog/3.jpg", "cow/4.jpg")
    assert list_sources([one, other], {}).labels() == ["cat", "cow", "dog"]


def test_merging_needs_a_source_and_names_the_one_that_fails(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"No pictures were given\. Pass"):
        list_sources([], {})
    with pytest.raises(SourceError, match=r"nothing at .*missing"):
        list_sources([planted(tmp_path / "a", "cat/1.jpg"), tmp_path / "missing"], {})


def test_labels_with_accents_are_one_label_however_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,label\n1.jpg,caf\u00e9\n2.jpg,cafe\u0301\n3.jpg,the the\n", encoding="utf-8")
    assert listed(tmp_path / "t.csv").labels() == ["caf\u00e9", "the the"]
    assert list_sources([tmp_path / "t.csv"], {"caf\u00e9": "coffee"}).labels() == ["coffee", "the the"]


def test_tables_with_odd_columns_are_told(tmp_path: Path) -> None:
    pl.DataFrame({"path": [["a"], ["b"]], "label": ["x", "y"]}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(SourceError, match=r"The table .*t\.parquet cannot be read"):
        listed(tmp_path / "t.parquet")
    (tmp_path / "nul.csv").write_bytes(b"path,label\na\x00b.jpg,cat\n")
    with pytest.raises(SourceError, match=r"nul\.csv, row 1: the path 'a\\x00b\.jpg' is not a valid file name"):
        listed(tmp_path / "nul.csv")
    planted(tmp_path, "a.jpg")
    (tmp_path / "latin.csv").write_bytes(b"path,label\na.jpg,ch\xe9t\n")
    assert listed(tmp_path / "latin.csv").labels() == ["ch\u00e9t"]


def test_a_missing_file_of_a_table_becomes_a_row_with_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,label\ngone.jpg,cat\n")
    row = scan_pictures(listed(tmp_path / "t.csv"), DecodeLimits(), Context(threads=1, cache=None)).row(0, named=True)
    assert (row["label"], row["check"]) == ("cat", "unreadable")
    assert "gone.jpg" in row["error"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every file name is text")
def test_names_that_are_no_text_become_rows_with_an_error(collection: SyntheticDataset, tmp_path: Path) -> None:
    root = planted(tmp_path / "pets", "chat/a.jpg", os.fsdecode(b"chat/caf\xe9.jpg"), os.fsdecode(b"chien\xe9/b.jpg"))
    shutil.copy(next(collection.folder.rglob("*.jp*g")), root / "chat" / "a.jpg")
    listing = list_sources([root], {"chat": "cat"})
    assert [(Path(one.path).name, one.label) for one in listing.unusable] == [
        ("caf\\udce9.jpg", "cat"),
        ("b.jpg", "chien\\udce9"),
    ]
    for _ in range(2):  # measured, then remembered
        table = scan_pictures(listing, DecodeLimits(), Context(threads=1, cache=tmp_path / "m"))
        assert table["error"].is_null().to_list() == [True, False, False]
        assert table["check"].to_list() == [None, "unreadable", "unreadable"]
        assert table["row_id"].to_list() == [0, 1, 2]
    assert table["error"][1].endswith("caf\\udce9.jpg cannot be used. The name is not valid Unicode: rename it.")
    table.write_parquet(tmp_path / "t.parquet")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every file name is text")
def test_a_source_whose_own_name_is_no_text_is_told(tmp_path: Path) -> None:
    root = planted(tmp_path / os.fsdecode(b"b\xe9tes"), "cat/a.jpg")
    with pytest.raises(SourceError, match=r"The name .*b\\udce9tes is not valid Unicode\. Rename it"):
        listed(root)


def test_a_class_folder_that_leads_back_is_not_followed(tmp_path: Path) -> None:
    root = planted(tmp_path / "pets", "cat/a.jpg")
    (root / "again").symlink_to(root, target_is_directory=True)
    (root / "up").symlink_to(tmp_path, target_is_directory=True)
    (root / "self").symlink_to(root / "self")
    assert listed(root).labels() == ["cat"]
    assert dict(listed(root).skipped) == {"linked folder": 2, "beside the class folders": 1}


def test_a_folder_that_vanishes_while_it_is_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, walk = planted(tmp_path / "pets", "cat/a.jpg", "dog/b.jpg"), os.walk

    def vanishing(
        folder: Path, onerror: Callable[[OSError], None], followlinks: bool
    ) -> Iterator[tuple[str, list[str], list[str]]]:
        shutil.rmtree(root / "dog", ignore_errors=True)
        return walk(folder, onerror=onerror, followlinks=followlinks)

    monkeypatch.setattr(sources.os, "walk", vanishing)
    with pytest.raises(SourceError, match=r"The folder .*dog cannot be listed: No such file"):
        listed(root)
