"""`python -m images`: what the Makefile calls."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from images.deb.build import build_deb
from images.publishing.release import Order, release
from images.raspberry_pi.image import build_image, build_update
from images.signing import add_release_key, update_keys
from images.workplace import ROOT, VERSION, say

_DIST = ROOT / "dist"


def main(argv: list[str] | None = None) -> int:
    """Run one verb."""
    parser = argparse.ArgumentParser(prog="images", description="Build Lantern's packages and images.")
    parser.add_argument("--out", type=Path, default=_DIST, help="where results go (default: dist/)")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    deb = verbs.add_parser("deb", help="the Debian package")
    deb.add_argument("--architecture", choices=["arm64", "amd64"], default="arm64")
    deb.add_argument("--python", default="3.13", help="the Python of the device: 3.13 on trixie, 3.12 on JetPack 7")
    image = verbs.add_parser("image", help="the image of a board")
    image.add_argument("--board", choices=["raspberry-pi"], required=True)
    image.add_argument("--uncompressed", action="store_true", help="leave the .img alone")
    update = verbs.add_parser("update-bundle", help="a signed update for devices in use")
    for verb in (image, update):
        verb.add_argument("--version", default=VERSION, help="the version that devices compare (default: %(default)s)")
    for verb in (deb, image, update):
        verb.add_argument("--uncommitted", action="store_true", help="package the work tree instead of the last commit")
    released = verbs.add_parser("release", help="everything that people download of this version, signed")
    released.add_argument("--without-image", action="store_true", help="neither the card nor its update")
    released.add_argument("--advisories", type=Path, help="known holes in the OSV format: a folder or a zip file")
    verbs.add_parser("keys", help="the keys that sign updates and releases, where they are absent")
    args = parser.parse_args(argv)
    if args.verb == "release":
        release(Order(args.out, has_image=not args.without_image, advisories=args.advisories))
        return 0
    if args.verb == "keys":
        say(f"The keys are in {add_release_key(update_keys()).parent}: keep them, and keep them secret.")
        return 0
    is_committed_only = not args.uncommitted
    if args.verb == "deb":
        build_deb(args.architecture, args.python, args.out, is_committed_only=is_committed_only)
    elif args.verb == "image":
        build_image(
            args.out, version=args.version, is_committed_only=is_committed_only, compressed=not args.uncompressed
        )
    else:
        build_update(args.out, version=args.version, is_committed_only=is_committed_only)
    return 0


if __name__ == "__main__":
    sys.exit(main())
