"""``salver token``: the token of the control API on TCP, and another one in its place."""

from __future__ import annotations

import click

from salver.cli.instance_option import instance_option
from salver.cli.output import say
from salver.engine.local.admin_token import drop_old_token, rotate_token, token_file, valid_tokens
from salver.engine.local.instance import find_instance


@click.command()
@click.argument("action", metavar="[rotate|drop-old]", type=click.Choice(["", "rotate", "drop-old"]), default="")
@click.option("--keep-old", is_flag=True, help="With rotate: the one before is accepted until drop-old, too.")
@instance_option
def token(action: str, keep_old: bool, instance: str | None) -> None:
    """\b
    Print the token that opens the control API on TCP, or replace it.

    \b
    Examples:
      salver token                     for SALVER_TOKEN of who asks from elsewhere
      salver token rotate              a new one; the one before is refused from now on
      salver token rotate --keep-old   change the clients meanwhile, then:
      salver token drop-old

    Nothing is restarted. The next request with a token that is no longer valid is refused.
    """
    if keep_old and action != "rotate":
        raise click.UsageError("--keep-old is for `salver token rotate`.")
    chosen = find_instance(instance)
    if chosen.info().admin is None:
        raise LookupError(f"Instance {chosen.name} has no control API on TCP (--admin-port), so there is no token.")
    if action == "rotate":
        rotate_token(chosen)
        say(f"The new token is in {token_file(chosen)}; the one before is {'valid, too' if keep_old else 'refused'}.")
    if action == "drop-old" or (action == "rotate" and not keep_old):
        drop_old_token(chosen)
    if action == "drop-old":
        say("Only the latest token is accepted.")
        return
    found = valid_tokens(chosen)
    if not found:
        raise LookupError(f"There is no token in {token_file(chosen)}: `salver token rotate` makes one.")
    click.echo(found[0])
