"""The client commands on principals: create, list, rotate, delete."""

import sys
from typing import Annotated

import typer

from taskserver.cli.connection import DataOption, JsonOption, connect
from taskserver.cli.exits import EPILOG
from taskserver.cli.output import print_json, print_table
from taskserver.client import Principal

principals = typer.Typer(
    help="Who may use the server: create, list, rotate, delete. Needs an administrator's token.", no_args_is_help=True
)
NameArgument = Annotated[str, typer.Argument(help="The principal's name.")]


@principals.command(epilog=EPILOG)
def create(
    name: NameArgument,
    *,
    role: Annotated[str, typer.Option(help="TASK_VIEWER, TASK_SUBMITTER, TASK_MANAGER or ADMIN.")],
    account: Annotated[str, typer.Option(help="The account whose tasks it sees.")] = "0",
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a principal and print its token, which is shown only now."""
    with connect(data) as server:
        _print_token(server.create_principal(name, role=role, account=account), as_json=as_json)


@principals.command("list", epilog=EPILOG)
def list_principals(*, data: DataOption = None, as_json: JsonOption = False) -> None:
    """List principals."""
    with connect(data) as server:
        found = server.principals()
    if as_json:
        print_json({"contents": [one.document for one in found]})
    else:
        print_table(("NAME", "ROLE", "ACCOUNT"), [(one.name, one.role, one.account) for one in found])


@principals.command(epilog=EPILOG)
def rotate(name: NameArgument, *, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Give a principal a new token; the old one ends at once."""
    with connect(data) as server:
        _print_token(server.rotate_principal(name), as_json=as_json)


@principals.command(epilog=EPILOG)
def delete(name: NameArgument, *, data: DataOption = None, as_json: JsonOption = False) -> None:
    """End a principal; its token is worth nothing from now on."""
    with connect(data) as server:
        server.delete_principal(name)
    if as_json:
        print_json({"name": name, "deleted": True})
    else:
        sys.stdout.write(f"principal {name} deleted\n")


def _print_token(principal: Principal, *, as_json: bool) -> None:
    if as_json:
        print_json(principal.document)
    else:
        sys.stdout.write(f"{principal.token}\n")
        sys.stderr.write(
            f"{principal.name} is {principal.role} of account {principal.account}; the token is shown only now\n"
        )
