"""The image of docker/Dockerfile, built without a container daemon on a base of the test's own, and programs run in it.

buildah with chroot isolation runs every line as a real process in the image's own files. The base is Debian by debootstrap: no
registry of images is asked for one. How pip finds packages on this machine is handed in, for the build alone.
"""

from __future__ import annotations

import configparser
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ..distributed import BIN, ROOT

#: Gibibytes that the base, the image and a container of it take: they are copies of one another.
_DISK = 16


def missing() -> str:
    """Why no image can be built here; empty where one can."""
    if os.geteuid() != 0:
        return "chroots need root"
    if absent := [name for name in ("buildah", "debootstrap") if not shutil.which(name)]:
        return f"{' and '.join(absent)} not found: apt-get install buildah debootstrap"
    return ""


def lacks_disk(folder: Path) -> bool:
    """Whether there is too little space."""
    return shutil.disk_usage(folder).free < _DISK * 2**30


class Image:
    """The CPU's image, and a container of it to run programs in.

    Args:
        folder: for base, image and container: 6 GiB, or 10 without overlays.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        places = ["--root", str(folder / "store"), "--runroot", str(folder / "runtime")]
        buildah = ["env", f"TMPDIR={folder}", "buildah", *places, "--storage-driver"]
        # An overlay where the kernel has it on this file system, or else copies, which take much longer.
        tried = subprocess.run([*buildah, "overlay", "info"], capture_output=True, timeout=60, check=False)
        self._buildah = [*buildah, "vfs" if tried.returncode else "overlay"]

    def build(self, hosts: Sequence[str] = ()) -> str:
        """Make the base and the image; returns what the build said.

        Args:
            hosts: names that mean this machine in the container, which shares its network.

        Raises:
            CalledProcessError: some line of it failed; what it said is in the test's output.
        """
        base = self._folder / "base"
        base.mkdir(parents=True)
        _run("debootstrap", "--variant=minbase", "bookworm", base / "root")
        (base / "Dockerfile").write_text("FROM scratch\nADD root /\n")
        _run(*self._buildah, "build", "--isolation", "chroot", "--tag", "localhost/base", base)
        shutil.rmtree(base / "root")
        given = self._pip()
        words = ["build", "--isolation", "chroot", "--format", "docker", "--build-arg", "BASE=localhost/base"]
        said = _run(*self._buildah, *words, *given, "--file", "docker/Dockerfile", "--tag", "localhost/ibnorm", ROOT)
        names = [f"--add-host={name}:127.0.0.1" for name in hosts]
        _run(*self._buildah, "from", *names, "--name", "ibnorm", "localhost/ibnorm")
        return said

    def _pip(self) -> list[str]:
        """Options that bring pip's settings of this machine, with the files that they name, into the build."""
        options, settings = [], configparser.ConfigParser()
        settings["global"] = {}
        for name, value in _pip_settings().items():
            if name in ("constraint", "no-cache-dir", "cache-dir"):
                continue  # launch/constraints.txt alone decides
            places = []
            for number, word in enumerate(value.split()):
                url = word.startswith("file:")
                path = Path(url2pathname(urlsplit(word).path) if url else word)
                if not path.is_absolute() or not path.exists():
                    places.append(word)
                    continue
                inside = f"/tmp/pip/{name}-{number}"  # noqa: S108 (in the build's own root)
                # The files that an index names by relative addresses lie beside it.
                options += ["--volume", f"{path.parent if url else path}:{inside}:ro"]
                places.append(f"file://{inside}/{path.name}" if url else inside)
            settings["global"][name] = "\n".join(places)
        cache = subprocess.run(
            [BIN / "python", "-m", "pip", "cache", "dir"], capture_output=True, text=True, check=True
        ).stdout.strip()
        if Path(cache).is_dir():  # what was downloaded and built for the tests' own environment
            options += ["--volume", f"{cache}:/tmp/pip/cache"]
            settings["global"]["cache-dir"] = "/tmp/pip/cache"  # noqa: S108
        with open(self._folder / "pip.conf", "w") as file:
            settings.write(file)
        return [*options, "--secret", f"id=pip,src={self._folder / 'pip.conf'}"]

    def config(self) -> str:
        """What the image says of itself, as JSON."""
        return _run(*self._buildah, "inspect", "--type", "image", "localhost/ibnorm")

    def start(
        self, *words: str, volumes: Mapping[Path, str] = {}, environ: Mapping[str, str] = {}, user: str = "", host: str = ""
    ) -> subprocess.Popen[str]:
        """Start a program in the container, as the image's user in its folder, on a host of that name."""
        given: list[str] = [f"--volume={outside}:{inside}" for outside, inside in volumes.items()]
        given += [f"--env={name}={value}" for name, value in environ.items()]
        given += [f"--user={user}"] if user else []
        given += [f"--hostname={host}"] if host else []
        line = [*self._buildah, "run", "--isolation", "chroot", *given, "ibnorm", "--", *words]
        return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def remove(self) -> None:
        """Give all of it back."""
        _run(*self._buildah, "rm", "--all")  # or else the container's files are still mounted
        _run(*self._buildah, "rmi", "--all", "--force")
        subprocess.run(["umount", self._folder / "store" / "overlay"], capture_output=True, timeout=60, check=False)
        shutil.rmtree(self._folder)

    def run(self, *words: str, user: str = "") -> tuple[int, str]:
        """Run a program in the container: its exit code, and what it said."""
        process = self.start(*words, user=user)
        said, _ = process.communicate(timeout=300)
        return process.returncode, said


def _run(*words: object) -> str:
    given: Sequence[str] = [str(word) for word in words]
    done = subprocess.run(
        given, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1200, check=False
    )
    if done.returncode:
        print(done.stdout[-8000:])
        raise subprocess.CalledProcessError(done.returncode, shlex.join(given))
    return done.stdout


def _pip_settings() -> dict[str, str]:
    """pip's settings here, by the names that a file of settings has: of files first, then of the environment."""
    said = subprocess.run(
        [BIN / "python", "-m", "pip", "config", "list"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    found: dict[str, str] = {}
    for line in sorted(said.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        found[name.rpartition(".")[2]] = value.strip("'\"").replace("\\n", " ")
    return found
