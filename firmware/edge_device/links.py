"""Several links in an order, and JWT in place of a token. Left out where neither is used."""

from micropython import const

from .config import ConfigError, Link
from .core import make_session

_FIRST_BACKOFF = const(500)
_MOST_PAUSES = const(8)
_PLACE = ("link", "host", "port", "uart", "tls")


def load(form, where):
    """What the settings say of links; its `form` holds the rest of them. Raises ConfigError."""
    return Links(form, where)


class Links:
    """Which link is used: each in its turn, the first again after a while. Times are milliseconds of uptime."""

    def __init__(self, form, where):
        """Take `links`, `jwt` and `prefer` from the settings; `form` is what is left of them."""
        self.form = {name: form[name] for name in form if name not in ("links", "jwt", "prefer")}
        links = form.get("links")
        if links is None:
            links = [{name: form[name] for name in _PLACE if name in form}]
        elif not isinstance(links, list) or not links or "tls" in form:
            raise ConfigError(where + ": 'links' must be a list of objects, each with its own 'tls'")
        self._links = [_link(form, link, where + ": link " + str(at + 1)) for at, link in enumerate(links)]
        self._signer = None
        self._signed = False
        self.waits = False
        """Whether the time is wanted before there can be a connection."""
        self.secret = None
        """What the JWTs are signed with where the gateway knows it, too."""
        if "jwt" in form:
            from .jwt import Signer

            self._signer = Signer(form["jwt"], where)
            self.secret = self._signer.secret
        if all(link.kind == "mqtt" and (self._signer or "cert" in (link.tls or ())) for link in self._links):
            self.form.setdefault("key", "-")  # a certificate or a JWT says who we are
        prefer = form.get("prefer", 300)
        if not isinstance(prefer, int) or not 1 <= prefer <= 86400:
            raise ConfigError(where + ": 'prefer' must be a whole number of seconds from 1 to 86400")
        self._prefer = self._pause = prefer * 1000
        self._at = 0
        self._rounds = 0
        self._back_at = None

    @property
    def link(self):
        """The link to be used now."""
        return self._links[self._at]

    def begin(self, now):
        """There is a connection."""
        self._back_at = now + self._pause

    def works(self):
        """Something was acknowledged over it."""
        self._rounds = 0
        if not self._at:
            self._pause = self._prefer

    def close(self, core, delay):
        """A link cannot be had, or broke: have the core use the next; returns the pause, of which `delay` is the most.

        One that has worked is left for the first. The pause is short until all have had their turn.
        """
        self._back_at = None
        self._signed = False
        self._at = 0 if core.proven else (self._at + 1) % len(self._links)
        self._use(core)
        if self._at or core.proven:
            return _FIRST_BACKOFF
        self._rounds += 1
        return min(delay, _FIRST_BACKOFF << min(self._rounds, 16))

    def _use(self, core):
        link = self.link
        if core.link.kind != link.kind:
            core.session = make_session(core.config, link.kind, core.hal.random)
        core.link = link

    def step(self, core, now):
        """Called before the core connects, and while it is connected; True where it has to wait or connect anew.

        Looks for the first link again once it is time to, ever more seldom while that is in vain; and has a JWT made.
        """
        if self._signer and not self._signed and core.link.kind == "mqtt":
            self.waits = core.hal.time() is None
            try:
                core.session.key = self._signer.token(core.hal)
            except (OSError, ValueError) as error:
                core.link_down(now, str(error))
                return True
            self._signed = True
        if self._back_at is not None and self._at and now >= self._back_at:
            self._pause = min(self._pause * 2, self._prefer * _MOST_PAUSES)
            core.proven = True
            core.link_down(now, "the preferred link is tried again")
            return True
        return False


def _link(form, link, where):
    if not isinstance(link, dict):
        raise ConfigError(where + " must be an object")
    for name in link:
        if name not in _PLACE:
            raise ConfigError(where + " has an unknown entry '" + str(name) + "'")
    # What a link does not say for itself stands beside `links`, once for all of them.
    merged = {name: form[name] for name in ("host", "port") if name in form}
    merged.update(link)
    return Link(merged, where)
