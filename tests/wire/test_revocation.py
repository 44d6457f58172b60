"""What a session proved at login must stay enough: changes of CHAP end the sessions that would not be let in now."""

from __future__ import annotations

from harness import ports
from harness.model import Account, Authentication, Rule, Target
from harness.runner import Context, case, expect, expect_equal
from initiator.chap import Credentials
from initiator.login import OPERATIONAL, SECURITY, LoginFailed
from initiator.session import Session
from wire.support import log_in, options, pattern, raw_login, read, refused, sanctum, serve, simple, write

_FAILED = 0x0201


def _account(stem: str) -> Account:
    return Account(ports.unique(stem), f"secret-of-{stem}".ljust(16, "-")[:16])


def _credentials(account: Account, mutual: Account | None = None, algorithms: tuple[int, ...] = (5,)) -> Credentials:
    user, secret = (mutual.user, mutual.secret) if mutual else (None, None)
    return Credentials(account.user, account.secret, user, secret, algorithms)


def _cut(session: Session) -> None:
    expect(session.connection.at_end(10), f"{session.options.initiator}: the session ends")


def _stays(*sessions: Session) -> None:
    """They serve, also a while after the change was answered: a cut is over by then."""
    for session in sessions:
        write(session, 0, pattern(512)).good()
        read(session, 0, 1)


def _two(context: Context) -> tuple[Account, Account, Target]:
    """A target that lets two accounts in."""
    one, two = _account("one"), _account("two")
    return one, two, serve(context, simple("revoke", authentication=Authentication((one, two))))


@case(needs=("sanctum",))
def test_account_no_longer_allowed(context: Context) -> None:
    """An account taken from a target's list: its sessions to this target end, those of others and to others stay."""
    one, two, target = _two(context)
    elsewhere = serve(context, simple("elsewhere", authentication=Authentication((one, two))))
    first, second = (log_in(context, target, credentials=_credentials(account)) for account in (one, two))
    other = log_in(context, elsewhere, credentials=_credentials(one))
    sanctum(context).cli.run("target", "update", target.name, "--chap", two.user)
    _cut(first)
    _stays(second, other)
    expect_equal(refused(context, options(target.name, credentials=_credentials(one))), _FAILED, "logging in again")


@case(needs=("sanctum",))
def test_account_removed(context: Context) -> None:
    """An account that goes from the settings altogether takes its sessions along, and no others."""
    server = sanctum(context)
    one, two, target = _two(context)
    first, second = (log_in(context, target, credentials=_credentials(account)) for account in (one, two))
    text = server.cli.settings()["text"]
    named, entry = f'"{one.user}",', f'[[iscsi.chap]]\nuser = "{one.user}"\nsecret = "{one.user}"\n'
    expect_equal((text.count(named), text.count(entry)), (1, 1), f"places of the account in {text}")
    server.cli.apply(text.replace(named, "").replace(entry, ""))
    context.cleanup.callback(server.cli.add_account, one)  # what comes after takes it away again
    _cut(first)
    _stays(second)


@case(needs=("sanctum",))
def test_proof_newly_required(context: Context) -> None:
    """A target that begins to ask for CHAP ends the sessions that proved nothing."""
    server = sanctum(context)
    account = _account("late")
    server.cli.add_account(account)
    context.cleanup.callback(server.cli.remove_account, account.user)
    target, other = serve(context, simple("late")), serve(context, simple("open"))
    unproven, elsewhere = log_in(context, target), log_in(context, other)
    server.cli.run("target", "update", target.name, "--chap", account.user)
    _cut(unproven)
    _stays(elsewhere)
    expect_equal(refused(context, options(target.name)), _FAILED, "without a proof")
    _stays(log_in(context, target, credentials=_credentials(account)))


@case(needs=("sanctum",))
def test_login_under_way_meets_the_new_proof(context: Context) -> None:
    """A login that was past its proof when CHAP was switched on does not get in without one."""
    server = sanctum(context)
    account = _account("meanwhile")
    server.cli.add_account(account)
    context.cleanup.callback(server.cli.remove_account, account.user)
    target = serve(context, simple("meanwhile"))
    login = raw_login(context, options(target.name))
    login.step(SECURITY, OPERATIONAL, True, [*login.first_keys(), ("AuthMethod", "None")])
    expect(login.transited(), "past the proof")
    server.cli.run("target", "update", target.name, "--chap", account.user)
    try:
        login.negotiate()
        raise AssertionError("a login without the proof that is asked for now got in")
    except LoginFailed as failure:
        expect_equal(failure.status, _FAILED, "status")


@case(needs=("sanctum",))
def test_rule_with_a_proof_of_its_own(context: Context) -> None:
    """A rule that comes before and asks for another account ends the sessions it matches that proved another."""
    server = sanctum(context)
    one, two, target = _two(context)
    special = ports.iqn("special")
    first = log_in(context, target, special, credentials=_credentials(one))
    second = log_in(context, target, credentials=_credentials(one))
    server.cli.add_rule(target.name, Rule(initiator=special, authentication=Authentication((two,))), position=1)
    _cut(first)
    _stays(second, log_in(context, target, special, credentials=_credentials(two)))


@case(needs=("sanctum",))
def test_hash_no_longer_accepted(context: Context) -> None:
    """Where MD5 is accepted no longer, sessions that proved themselves by it end; by SHA-256 they stay."""
    one, two, target = _two(context)
    weak = log_in(context, target, credentials=_credentials(one, algorithms=(5,)))
    strong = log_in(context, target, credentials=_credentials(two, algorithms=(7,)))
    words = ("--algorithm", "sha256", "--algorithm", "sha3-256")
    sanctum(context).cli.run("target", "update", target.name, *words)
    _cut(weak)
    _stays(strong)


@case(needs=("sanctum", "chap-mutual"))
def test_mutual_newly_required(context: Context) -> None:
    """Where the target's proof is required from now on, sessions that did not ask for it end."""
    account, own = _account("host"), _account("own")
    target = serve(context, simple("mutual", authentication=Authentication((account,), own)))
    one_way = log_in(context, target, credentials=_credentials(account))
    both = log_in(context, target, credentials=_credentials(account, own))
    sanctum(context).cli.run("target", "update", target.name, "--mutual-required", "true")
    _cut(one_way)
    _stays(both)


@case(needs=("sanctum",))
def test_secret_is_rotated(context: Context) -> None:
    """A new secret counts from the next login; open sessions stay, so that hosts can be given it one by one."""
    server = sanctum(context)
    one, _, target = _two(context)
    session = log_in(context, target, credentials=_credentials(one))
    fresh = Account(one.user, "another-secret-1")
    server.cli.run("chap", "set-secret", one.user, "--secret-stdin", stdin=fresh.secret + "\n")
    expect_equal(refused(context, options(target.name, credentials=_credentials(one))), _FAILED, "the old secret")
    _stays(session, log_in(context, target, credentials=_credentials(fresh)))
