"""Discovery: who must prove what before it is told anything, and which addresses it is told."""

from __future__ import annotations

from dataclasses import replace

from harness import ports
from harness.model import Account, Rule
from harness.runner import Context, case, expect, expect_equal
from initiator.chap import Credentials
from initiator.connection import Closed
from initiator.login import Options, WrongProof
from initiator.session import Rejected, Session, discover
from wire.support import calm, isid, log_in, options, raw_session, read, refused, sanctum, serve, simple

_ASKER = Account("asker", "secret-of-asker1")
_OTHER = Account("other-asker", "secret-of-other1")
_SELF = Account("target-itself", "secret-of-target")
_FAILED = 0x0201


def _credentials(account: Account, mutual: Account | None = None, **more: object) -> Credentials:
    user, secret = (mutual.user, mutual.secret) if mutual else (None, None)
    return Credentials(account.user, account.secret, user, secret, **more)  # type: ignore[arg-type]


def _asking(credentials: Credentials | None) -> Options:
    return Options(ports.iqn("asker"), isid=isid(), session_type="Discovery", credentials=credentials)


def _shown(context: Context, credentials: Credentials | None) -> dict[str, list[str]]:
    return discover(context.server.host, context.server.port, _asking(credentials))


def _guarded(context: Context, *words: str) -> None:
    """Discovery asks for the asker's proof until the case ends; all accounts are there."""
    cli = sanctum(context).cli
    for account in (_ASKER, _OTHER, _SELF):
        cli.add_account(account)
        context.cleanup.callback(cli.remove_account, account.user)
    cli.run("discovery", "require", "--chap", _ASKER.user, *words)
    context.cleanup.callback(cli.run, "discovery", "open")


@case(needs=("sanctum",))
def test_discovery_asks_for_a_proof(context: Context) -> None:
    """No CHAP, a wrong secret, a wrong user, another's account: refused. The right one is told the targets."""
    target = serve(context, simple("guarded"))
    expect(target.name in _shown(context, None), "without the setting everybody may ask")
    _guarded(context)
    attempts = {
        "no CHAP offered": None,
        "a wrong secret": _credentials(replace(_ASKER, secret="not-the-secret-1")),
        "an unknown user": _credentials(replace(_ASKER, user="nobody")),
        "an account that is not of discovery": _credentials(_OTHER),
    }
    for label, credentials in attempts.items():
        expect_equal(refused(context, _asking(credentials)), _FAILED, label)
    for algorithm in (5, 6, 7, 8):
        shown = _shown(context, _credentials(_ASKER, algorithms=(algorithm,)))
        expect(target.name in shown, f"the target is shown after a proof by hash {algorithm}")
    # The target itself asks for nothing; discovery's proof is discovery's alone.
    read(log_in(context, target), 0, 1)
    sanctum(context).cli.run("discovery", "open")
    expect(target.name in _shown(context, None), "everybody may ask again")


@case(needs=("sanctum",))
def test_mutual_discovery(context: Context) -> None:
    """The target proves itself in discovery, too; where that is required, nobody gets in without asking for it."""
    target = serve(context, simple("mutual"))
    _guarded(context, "--mutual", _SELF.user, "--mutual-required", "true")
    expect(target.name in _shown(context, _credentials(_ASKER, _SELF)), "with both proofs")
    expect_equal(refused(context, _asking(_credentials(_ASKER))), _FAILED, "one-way where mutual is required")
    try:
        _shown(context, _credentials(_ASKER, replace(_SELF, secret="not-its-secret-1")))
        raise AssertionError("a wrong target secret was proven")
    except WrongProof:
        pass


@case(needs=("sanctum",))
def test_open_discovery_session_meets_a_new_proof(context: Context) -> None:
    """A discovery session that proved nothing is ended, not answered, once a proof is asked; one that did goes on."""
    target = serve(context, simple("late"))
    host, port = context.server.host, context.server.port
    session = Session(host, port, _asking(None))
    context.cleanup.callback(session.connection.close)
    expect(target.name in dict(_pairs(session)), "shown before")
    _guarded(context)
    try:
        seen = session.text([("SendTargets", "All")])
        raise AssertionError(f"a discovery session without the proof was told {seen}")
    except (Closed, Rejected):
        expect(session.connection.at_end(10), "a discovery session without the proof ends")
    proven = Session(host, port, _asking(_credentials(_ASKER)))
    context.cleanup.callback(proven.connection.close)
    sanctum(context).cli.run("target", "update", target.name, "--alias", "changed")
    expect(target.name in dict(_pairs(proven)), "one that proved itself goes on")


def _pairs(session: Session) -> list[tuple[str, str]]:
    return [(value, key) for key, value in session.text([("SendTargets", "All")])]


@case(needs=("access",))
def test_addresses_are_those_that_the_rules_let_in(context: Context) -> None:
    """SendTargets names a portal only if a login through it would be let in by the rules."""
    server = sanctum(context)
    port, side = ports.free_port(), ports.unique("side")
    server.cli.add_portal(side, f"127.0.0.1:{port}")
    context.cleanup.callback(server.cli.remove_portal, side)
    main = next(entry["name"] for entry in server.cli.portals() if entry["port"] == server.port)
    narrow, both = ports.iqn("narrow"), ports.iqn("both")
    by_allow = serve(context, simple("by-allow", access=(Rule(initiator=narrow, portal=side), Rule(initiator=both))))
    by_deny = serve(context, simple("by-deny", access=(Rule(initiator=narrow, portal=main, action="deny"), Rule())))
    # Rules before the portal, or the clean-up could not remove what a rule names.
    for target in (by_allow, by_deny):
        context.cleanup.callback(server.set_access, target.name, (Rule(),))

    def told(initiator: str, through: int) -> dict[str, set[int]]:
        shown = discover("127.0.0.1", through, Options(initiator, isid=isid()))
        addresses = {
            name: {int(a.rpartition(",")[0].rpartition(":")[2]) for a in found} for name, found in shown.items()
        }
        return {name: found for name, found in addresses.items() if name in (by_allow.name, by_deny.name)}

    everywhere = {by_allow.name: {server.port, port}, by_deny.name: {server.port, port}}
    expect_equal(told(both, server.port), everywhere, "what the other one is told")
    expect_equal(told(both, port), everywhere, "what the other one is told through the side portal")
    only_side = {by_allow.name: {port}, by_deny.name: {port}}
    expect_equal(told(narrow, port), only_side, "what the narrow one is told through its portal")
    for target in (by_allow, by_deny):
        expect_equal(refused(context, options(target.name, narrow)), 0x0202, f"{target.name} through the main one")
        calm(raw_session(context, options(target.name, narrow), port))
