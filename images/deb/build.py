"""Makes lantern_VERSION_ARCHITECTURE.deb: no root, no emulation, and the same bytes from the same commit."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from images.deb.kernels import add_kernels
from images.token_table import table_files
from images.wheels import site_packages
from images.workplace import ROOT, VERSION, cache, run, say, source_date_epoch

_HERE = Path(__file__).parent
_PREFIX = "opt/lantern"
_UNITS = "usr/lib/systemd/system"
_KERNELS = "appliance/engine/kernels/build"
_SOURCES = ("LICENSE", "kernels.mk")


def package_version(python: str) -> str:
    """Return the version that dpkg sees: one for each Python, since the wheels belong to one."""
    return f"{VERSION}+py{python.replace('.', '')}"


def build_deb(architecture: str, python: str, out: Path, *, is_committed_only: bool = True) -> Path:
    """Build the package for one processor and one Python into the folder `out`.

    Raises:
        SystemExit: a wheel or the table of tokens is missing, or dpkg-deb fails.
    """
    out.mkdir(parents=True, exist_ok=True)
    target = out / f"lantern_{package_version(python)}_{architecture}.deb"
    with tempfile.TemporaryDirectory(prefix="lantern-deb-") as scratch:
        tree = Path(scratch) / "tree"
        site = tree / _PREFIX / "lib" / f"python{python}" / "site-packages"
        shutil.copytree(site_packages(architecture, python), site, symlinks=True)
        _add_token_table(site)
        _add_source(tree, site, is_committed_only=is_committed_only)
        add_kernels(tree.parent / "source", architecture, site / _KERNELS)
        _add_commands(tree, python)
        _add_control(tree, architecture, python)
        _settle(tree)
        options = ("--root-owner-group", "-Zzstd", "-z10", "--threads-max=1")
        run("dpkg-deb", *options, "--build", tree, target)
    say(f"{target} ({target.stat().st_size / 1e6:.1f} MB)")
    return target


def _add_source(tree: Path, site: Path, *, is_committed_only: bool) -> None:
    """Add the appliance and its units, as committed or as they lie there."""
    source = tree.parent / "source"
    if is_committed_only:
        archive = subprocess.run(
            ["git", "-C", str(ROOT), "archive", "HEAD", "appliance", "systemd", *_SOURCES],
            capture_output=True,
            check=True,
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(source, filter="data")
    else:
        for name in ("appliance", "systemd"):
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "build"))
        for name in _SOURCES:
            shutil.copy(ROOT / name, source / name)
    (source / "appliance" / "requirements.lock").unlink()
    shutil.copytree(
        source / "appliance", site / "appliance", ignore=shutil.ignore_patterns("sources", "find_header.sh")
    )
    units = tree / _UNITS
    units.mkdir(parents=True)
    for pattern in ("*.service", "*.socket", "*.path", "*.timer"):
        for unit in (source / "systemd").glob(pattern):
            shutil.copy(unit, units / unit.name)
    documents = tree / "usr/share/doc/lantern"
    documents.mkdir(parents=True)
    shutil.copy(source / "LICENSE", documents / "copyright")


def _add_token_table(site: Path) -> None:
    try:
        files = table_files(cache())
    except OSError as err:
        raise SystemExit(str(err)) from err
    for path, place in files.items():
        (site / place).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, site / place)


def _add_commands(tree: Path, python: str) -> None:
    """Add a virtual environment without its activation scripts, and the command in the path."""
    bin_folder = tree / _PREFIX / "bin"
    bin_folder.mkdir()
    (bin_folder / "python").symlink_to(f"/usr/bin/python{python}")
    (tree / _PREFIX / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {python}\n", "utf-8"
    )
    command = bin_folder / "lantern"
    command.write_text(
        "#!/opt/lantern/bin/python\nimport sys\n\nfrom appliance.__main__ import main\n\nsys.exit(main())\n", "utf-8"
    )
    command.chmod(0o755)
    for name, folder, mode in (("lantern", "usr/bin", 0o755), ("80-lantern.preset", f"{_UNITS}-preset", 0o644)):
        (tree / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(_HERE / name, tree / folder / name)
        (tree / folder / name).chmod(mode)


def _add_control(tree: Path, architecture: str, python: str) -> None:
    """Add control, the maintainer scripts, and the sums that `dpkg --verify` compares."""
    files = sorted(p for p in tree.rglob("*") if p.is_file() and not p.is_symlink())
    control = tree / "DEBIAN"
    control.mkdir()
    major, minor = python.split(".")
    words = {
        "VERSION": package_version(python),
        "ARCHITECTURE": architecture,
        "PYTHON": python,
        "NEXT_PYTHON": f"{major}.{int(minor) + 1}",
        "SIZE_KIB": str(sum(p.stat().st_size for p in files) // 1024),
    }
    text = (_HERE / "control.in").read_text("utf-8")
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    (control / "control").write_text(text, "utf-8")
    sums = [f"{hashlib.md5(p.read_bytes()).hexdigest()}  {p.relative_to(tree)}\n" for p in files]  # noqa: S324
    (control / "md5sums").write_text("".join(sums), "utf-8")
    for script in ("postinst", "prerm", "postrm"):
        shutil.copy(_HERE / script, control / script)
        (control / script).chmod(0o755)


def _settle(tree: Path) -> None:
    """Set the same modes and times for every builder and every time."""
    epoch = source_date_epoch()
    for path in [tree, *tree.rglob("*")]:
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if executable else 0o644)
        os.utime(path, (epoch, epoch), follow_symlinks=False)
