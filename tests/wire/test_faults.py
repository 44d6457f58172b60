"""Bad input and bad luck: each gets its clear error, and nothing is lost or half-applied."""

from __future__ import annotations

import shutil
import socket
import subprocess

from harness import cli as command_line
from harness import ports
from harness.cli import CommandFailed
from harness.model import MIB, Account, Authentication, Device, Lun
from harness.runner import Context, case, expect, expect_equal
from initiator import scsi
from initiator.chap import Credentials
from wire.support import calm, disk, log_in, options, pattern, raw_session, read, sanctum, serve, simple, write


def _fails(context: Context, *words: str, stdin: str | None = None) -> CommandFailed:
    """The command must fail; its problem says what and what to do."""
    try:
        sanctum(context).cli.run(*words, stdin=stdin)
    except CommandFailed as failure:
        expect(failure.exit in (1, 2, 3, 4), f"exit code {failure.exit}")
        expect(len(failure.text.strip()) > 10, f"a sentence: {failure.text!r}")
        return failure
    raise AssertionError(f"sanctum {' '.join(words)} succeeded")


@case(seconds=60, needs=("sanctum",))
def test_bad_commands_change_nothing(context: Context) -> None:
    """Unknown names, doubles, nonsense values: refused, and the generation stays."""
    target = disk(context)
    cli = sanctum(context).cli
    device = target.luns[0].device.name
    before = cli.settings()
    for words in (
        ("target", "show", "iqn.2026-11.test:nothing"),
        ("target", "create", target.name),
        ("target", "create", "not an iscsi name"),
        ("target", "delete", "iqn.2026-11.test:nothing"),
        ("lun", "add", target.name, "no-such-device"),
        ("lun", "add", target.name, device, "--number", "9"),
        ("lun", "remove", target.name, "99"),
        ("device", "create", "image", device, "--size", "1M"),
        ("device", "create", "image", "odd", "--size", "1000"),
        ("device", "create", "iso", "gone", "--path", "/nowhere/disc.iso"),
        ("device", "create", "block", "gone", "--path", "/dev/nothing"),
        ("device", "delete", device),
        ("device", "grow", device, "1M"),
        ("portal", "add", "bad", "192.0.2.1:3260"),
        ("portal", "remove", "no-such-portal"),
        ("access", "add", target.name, "allow", "--portal", "no-such-portal"),
        ("access", "remove", target.name, "42"),
        ("session", "drop", "65000"),
        ("settings", "rollback", "999999"),
        ("chap", "remove", "no-such-user"),
    ):
        _fails(context, *words)
    expect_equal(cli.settings(), before, "settings after refused commands")
    read(log_in(context, target), 0, 1)


@case(needs=("sanctum",))
def test_weak_secrets_are_refused(context: Context) -> None:
    """A secret that no initiator would take, or none at all, is refused with the reason."""
    for secret in ("", "short", "x" * 300):
        _fails(context, "chap", "add", ports.unique("user"), "--secret-stdin", stdin=secret + "\n")


@case(needs=("sanctum",))
def test_taken_port(context: Context) -> None:
    """A portal on a port that another program holds is refused, and nothing is half-applied."""
    cli = sanctum(context).cli
    before = cli.settings()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen(1)
        _fails(context, "portal", "add", ports.unique("taken"), f"127.0.0.1:{holder.getsockname()[1]}")
    expect_equal(cli.settings(), before, "settings after a refused portal")


@case(seconds=60, needs=("sanctum",))
def test_apply_is_all_or_nothing(context: Context) -> None:
    """A document with one bad line changes nothing and names the line; a good one shows its difference."""
    target = disk(context)
    cli = sanctum(context).cli
    before = cli.settings()
    text = before["text"]
    for damage in (
        text + '\n[[target]]\nname = "iqn.2026-11.test:x"\nbanana = 1\n',
        text + "\n[[target]\n",
        text.replace("allow", "alow", 1),
        text + '\n[[target]]\nname = "iqn.2026-11.test:x"\n[[target.lun]]\nnumber = 0\ndevice = "missing"\n',
        "",
        "\0\0\0",
        "x" * 100_000,
    ):
        if damage == text:
            continue
        failure = _fails(context, "settings", "apply", "-", stdin=damage)
        expect_equal(cli.settings(), before, f"settings after {failure.text[:80]!r}")
    expect_equal(cli.diff(text)["text"], "", "no difference to itself")
    expect(target.name in text, "the target is in the document")
    applied = cli.apply(text)
    expect_equal(applied["generation"], before["generation"], "applying what is in force changes nothing")


@case(seconds=60, needs=("sanctum",))
def test_roll_back_and_history(context: Context) -> None:
    """A generation from the history comes back as a new one; a stale expectation is refused."""
    target = disk(context)
    cli = sanctum(context).cli
    before = cli.settings()
    cli.run("target", "update", target.name, "--alias", "changed")
    changed = cli.settings()
    expect(
        changed["generation"] > before["generation"] and changed["text"] != before["text"], "a change is a generation"
    )
    _fails(context, "settings", "rollback", str(before["generation"]), "--expect", str(before["generation"]))
    cli.roll_back(before["generation"])
    expect_equal(cli.settings()["text"], before["text"], "text after rolling back")
    active = [entry["generation"] for entry in cli.history() if entry["active"]]
    expect_equal(active, [cli.settings()["generation"]], "the active generation")
    read(log_in(context, target), 0, 1)


@case(seconds=90, needs=("sanctum",))
def test_settings_survive_kill_at_any_moment(context: Context) -> None:
    """kill -9 between and amid changes: after each start the last answered change is in force."""
    server = sanctum(context)
    target = disk(context)
    cli = server.cli
    for turn in range(8):
        cli.run("target", "update", target.name, "--alias", f"turn-{turn}")
        process = subprocess.Popen(
            [str(cli.program), "--socket", str(cli.socket), "target", "update", target.name, "--alias", f"late-{turn}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        server.kill()
        answered = process.wait(20) == 0
        server.restart()
        alias = cli.run("target", "show", target.name)["alias"]
        allowed = {f"late-{turn}"} if answered else {f"turn-{turn}", f"late-{turn}"}
        expect(alias in allowed, f"alias {alias!r} after turn {turn}, answered {answered}")
    read(log_in(context, target), 0, 1)


@case(seconds=60, needs=("sanctum",))
def test_damaged_files_are_refused(context: Context) -> None:
    """A damaged settings document, secrets file or data directory: the service says so, changes nothing, and starts once repaired."""
    server = sanctum(context)
    account = Account(ports.unique("user"), "secret-of-16-byt")
    target = serve(context, simple("damage", authentication=Authentication((account,))))
    data = server.data_dir
    server.stop()
    backup = context.directory / "backup"
    shutil.copytree(data, backup, symlinks=True, ignore=shutil.ignore_patterns("*.img", "socket", "*.sock"))
    victims = [
        path
        for path in data.rglob("*")
        if path.is_file() and path.suffix in (".toml", ".json") and path.stat().st_size > 0
    ]
    expect(victims, "files to damage")
    refused = 0
    for victim in victims:
        whole = victim.read_bytes()
        victim.write_bytes(whole[: len(whole) // 2] + b"\xff{[")
        try:
            server.start(8)
            server.stop()
        except AssertionError as problem:
            refused += 1
            server.kill()
            expect(victim.name in str(problem) or victim.stem in str(problem), f"{victim.name} is named in: {problem}")
        changed = victim.read_bytes() != whole[: len(whole) // 2] + b"\xff{["
        expect(not changed or refused == 0, f"{victim.name} was overwritten")
        victim.write_bytes(whole)
    expect(refused > 0, "no damage was noticed")
    server.start()
    log_in(context, target, credentials=Credentials(account.user, account.secret))


@case(seconds=60, needs=("sanctum",))
def test_image_that_is_too_short(context: Context) -> None:
    """An image cut while the service was down: its LUN is not ready and named, the rest serves, repair brings it back."""
    server = sanctum(context)
    short, whole = disk(context, stem="short"), disk(context, stem="whole")
    session = log_in(context, short)
    data = pattern(512)
    write(session, 0, data).good()
    path = server.path_of(short.luns[0].device)
    server.stop()
    with path.open("r+b") as image:
        image.truncate(MIB)
    server.start()
    read(log_in(context, whole), 0, 1)
    session = raw_session(context, options(short.name))
    result = session.run(scsi.test_unit_ready())
    while result.sense is not None and result.sense.key == scsi.UNIT_ATTENTION:
        result = session.run(scsi.test_unit_ready())
    result.check(scsi.NOT_READY)
    attention = " ".join(server.cli.status()["attention"])
    expect(short.luns[0].device.name in attention, f"the device is named: {attention!r}")
    server.stop()
    with path.open("r+b") as image:
        image.truncate(short.luns[0].device.size)
    server.start()
    session = log_in(context, short)
    expect(read(session, 0, 1) == data, "contents once repaired")


@case(seconds=60, needs=("sanctum",))
def test_missing_image(context: Context) -> None:
    """An image that is gone leaves its LUN not ready; it is never made again blank."""
    server = context.server
    gone, whole = disk(context, stem="gone"), disk(context, stem="stays")
    path = server.path_of(gone.luns[0].device)
    server.stop()
    hidden = path.with_suffix(".hidden")
    path.rename(hidden)
    try:
        server.start()
        expect(not path.exists(), "a blank image was made")
        read(log_in(context, whole), 0, 1)
        server.stop()
    finally:
        hidden.rename(path)
    server.start()
    read(log_in(context, gone), 0, 1)


@case(seconds=60, needs=("sanctum",))
def test_full_disk_under_a_thin_lun(context: Context) -> None:
    """No space: the write fails with 27/07, earlier data is whole, freed space is used again, the rest serves."""
    place = context.directory / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], check=True, timeout=20)
    context.cleanup.callback(subprocess.run, ["umount", "-l", str(place)], check=False, timeout=20)
    image = place / "thin.img"
    # The file system has no direct I/O on old kernels; the mode that goes through the page cache always works.
    device = Device(ports.unique("thin"), 64 * MIB, path=image, cache="write-through")
    target = serve(context, type(simple("full"))(ports.iqn("full"), (Lun(1, device),)))
    other = disk(context, stem="other")
    session = log_in(context, target)
    written: dict[int, bytes] = {}
    refused = None
    for number in range(64):
        data = pattern(MIB // 4)
        result = write(session, number * 512, data)
        if result.status != scsi.GOOD:
            refused = result
            break
        written[number] = data
    expect(refused is not None, "64 MiB fitted into 8")
    assert refused is not None
    refused.check(scsi.DATA_PROTECT, 0x27, 0x07)
    for number, data in written.items():
        expect(read(session, number * 512, 512) == data, f"contents of {number}")
    listing = scsi.unmap_list([(0, 4 * 512)])
    session.run(scsi.unmap(len(listing)), out=listing).good()
    write(session, 60 * 512, pattern(MIB // 4)).good()
    read(log_in(context, other), 0, 1)


@case(seconds=60, needs=("sanctum",))
def test_ram_disk_is_reported_empty(context: Context) -> None:
    """After a restart a RAM disk is not ready until its emptiness is accepted; its identity stays."""
    server = sanctum(context)
    name = ports.unique("ram")
    target = serve(context, type(simple("ram"))(ports.iqn("ram"), (Lun(1, Device(name, 8 * MIB, kind="ram")),)))
    session = log_in(context, target)
    write(session, 0, pattern(512)).good()
    identity = session.run(scsi.inquiry(255, 0x83), expect_in=255).good().data
    server.kill()
    server.restart()
    session = raw_session(context, options(target.name))
    result = session.run(scsi.test_unit_ready())
    while result.sense is not None and result.sense.key == scsi.UNIT_ATTENTION:
        result = session.run(scsi.test_unit_ready())
    expect(result.status == scsi.CHECK_CONDITION, "a RAM disk is silently blank after a restart")
    server.cli.load(name)
    calm(session)
    expect(not any(read(session, 0, 1)), "empty")
    expect_equal(session.run(scsi.inquiry(255, 0x83), expect_in=255).good().data, identity, "identity")


@case(needs=("sanctum",))
def test_two_services_never_share_a_directory(context: Context) -> None:
    """A second service on the same data directory refuses to start; the first goes on."""
    server = sanctum(context)
    target = disk(context)
    done = subprocess.run(
        command_line.service_command(server.programs, server.data_dir),
        stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False,
    )  # fmt: skip
    expect(done.returncode != 0, "two services on one directory")
    read(log_in(context, target), 0, 1)


@case(needs=("sanctum",))
def test_listings_and_tables(context: Context) -> None:
    """Every listing comes as a table and as JSON."""
    disk(context)
    cli = sanctum(context).cli
    for words in (
        ("target", "list"), ("lun", "list"), ("device", "list"), ("portal", "list"), ("chap", "list"), ("session", "list"),
        ("settings", "history"), ("event", "list"),
    ):  # fmt: skip
        expect(isinstance(cli.run(*words), list), f"{words} as JSON")
        expect(len(cli.table(*words).splitlines()) >= 1, f"{words} as a table")
    expect("generation" in cli.table("status"), "status for people")
