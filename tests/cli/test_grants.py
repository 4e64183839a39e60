"""What an app asks for, as whoever deploys it meets it on the command line; and secrets."""

from __future__ import annotations

import subprocess

from tests.cli.conftest import Gateway

ASKING = """
from edge import App
app = App("asking", grants=["secret:key", "command:pump-*"])

@app.on("climate")
def f(event, ctx):
    ctx.metric("litres", 2.5)
    ctx.command("pump-1", "on", {"key": len(ctx.secret("key"))})
"""


def test_what_is_asked_for_is_approved_by_name(gateway: Gateway) -> None:
    (gateway.folder / "asking.py").write_text(ASKING)
    checked = gateway.says("deploy", "asking.py", "--check")
    assert "asks to read the secret 'key': to be approved when it is deployed" in " ".join(checked.split())
    refused = gateway.edge("deploy", "asking.py")
    said = " ".join(refused.stderr.split())
    assert refused.returncode == 1
    assert "asking was not put live: it asks to give commands to devices whose id begins with 'pump-', read" in said
    assert "--grant 'command:pump-*' --grant secret:key" in said
    wrong = gateway.edge("deploy", "asking.py", "--grant", "everything")
    assert (wrong.returncode, "'everything' is not a grant" in wrong.stderr) == (1, True)
    partly = gateway.edge("deploy", "asking.py", "--grant", "secret:key")
    assert (partly.returncode, "--grant secret:key" in partly.stderr) == (1, False)
    gateway.says("deploy", "asking.py", "--grant", "secret:key", "--grant", "command:pump-*")
    assert gateway.says("deploy", "asking.py").startswith("asking was live already")


def test_a_secret_is_set_from_standard_input_and_never_shown(gateway: Gateway) -> None:
    def given(value: str) -> subprocess.CompletedProcess[str]:
        return gateway.edge("secret", "set", "key", given=value)

    assert given("").returncode == 1
    assert given("s3cret\n").stdout == "The secret key is set. Apps with the grant secret:key can read it.\n"
    assert gateway.json("secret", "list") == ["key"]
    assert "s3cret" not in gateway.says("secret", "list")
    gateway.send("gh-1", gateway.key, 21)
    gateway.until("asking.f")
    [metric] = gateway.json("apps", "metrics", "asking").items()
    assert (metric[0], metric[1]["sum"]) == ("litres", 2.5)
    assert "litres" in gateway.says("apps", "metrics", "asking")
    assert "there is no app 'askin'" in gateway.edge("apps", "metrics", "askin").stderr
    assert "there is no secret 'kay'" in gateway.edge("secret", "remove", "kay").stderr
    gateway.says("secret", "remove", "key")
    assert gateway.json("secret", "list") == []
