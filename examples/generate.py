"""Write the sample organisation's directory and sample requests for it.

Both are drawn from one seed, so the same seed and count give the same bytes. The hand-written part
of the policy data, ``policies/org/data.json``, is read and never written.

The requests are shaped like traffic: users and resources follow Zipf's law, and everybody has
habits, a few requests that they make again and again. Of 5,000 requests about nine in ten repeat an
earlier (user, action, resource, context).

The default limits admit 1,000 requests a minute for each user, address and API key. Sent within a
minute, the sample stays below 700 for every one of them but ``FLEET_KEY``: three service accounts
share that key for 23% of all requests, 1,150 of 5,000, so that it alone is refused at its end.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

HERE: Final = Path(__file__).parent
SEED: Final = 40
COUNT: Final = 5_000
USERS: Final = 300

FLEET_KEY: Final = "key-fleet"
FLEET_SHARE: Final = 0.23
FLEET: Final = {"svc-ci": 0.46, "svc-deploy": 0.34, "svc-scanner": 0.20}

TEAMS: Final = ("platform", "payments", "search", "identity", "mobile", "data", "support")
ENVIRONMENTS: Final = {"production": 50, "staging": 30, "development": 20}
SERVERS: Final = {"web": 32, "api": 28, "db": 20, "cache": 14, "batch": 14, "queue": 12}
KEYS: Final = {"signing": "identity", "session-mac": "identity", "audit-seal": "platform"}
TOOLS: Final = {
    "low": "calendar diff dns-lookup docs-search format glossary lint ping status-page translate",
    "medium": (
        "build certificate-check code-search cost-report dashboard flamegraph log-search metrics "
        "package-audit profile query-plan replay-staging test-run ticket trace"
    ),
    "high": (
        "cache-flush config-push deploy feature-flag queue-drain rollback scale secret-scan "
        "traffic-shift volume-resize"
    ),
    "critical": "failover key-escrow raw-sql remote-shell restore",
}
SERVICE_ROLES: Final = {
    "svc-ci": ["deployer"],
    "svc-deploy": ["deployer"],
    "svc-scanner": ["monitor"],
    "svc-monitor": ["monitor"],
    "svc-reports": ["monitor", "auditor"],
    "svc-backup": ["operator"],
    "svc-chatops": ["employee", "support"],
    "svc-legacy": ["deployer"],
}
STRANGERS: Final = ("contractor-17", "user-0999", "svc-unknown")

# How often people of a role ask for an action; what their role does not permit is denied.
HABITS: Final[dict[str, dict[str, int]]] = {
    "engineer": {
        "server:read": 40,
        "server:write": 18,
        "tool:invoke": 24,
        "server:list": 8,
        "server:delete": 3,
        "user:read": 3,
        "tool:list": 4,
    },
    "operator": {
        "server:read": 36,
        "server:write": 30,
        "server:delete": 10,
        "tool:invoke": 18,
        "server:list": 6,
    },
    "lead": {
        "user:read": 24,
        "user:grant": 16,
        "server:read": 24,
        "server:write": 14,
        "tool:invoke": 22,
    },
    "auditor": {"server:read": 50, "user:read": 36, "tool:list": 6, "tool:invoke": 8},
    "support": {"server:read": 28, "tool:invoke": 36, "user:read": 30, "server:write": 6},
    "admin": {"user:read": 24, "user:grant": 32, "admin:rotate-keys": 24, "tool:invoke": 20},
    "deployer": {
        "server:read": 30,
        "server:write": 36,
        "tool:invoke": 22,
        "server:list": 8,
        "user:grant": 4,
    },
    "monitor": {"server:read": 76, "server:list": 14, "tool:list": 6, "server:write": 4},
    "employee": {"tool:invoke": 40, "tool:list": 16, "server:list": 12, "user:read": 32},
}

T = TypeVar("T")
Person = dict[str, Any]
Directory = dict[str, dict[str, Person]]


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the sample; absent fields are left out."""

    user_id: str
    action: str
    resource: str
    context: dict[str, str | bool]
    ip: str | None = None
    api_key_id: str | None = None


@dataclass(frozen=True, slots=True)
class Zipf:
    """Draws from ``items`` so that the item of rank r has a weight of 1 / r ** exponent."""

    items: Sequence[Any]
    exponent: float = 1.0
    weights: list[float] = field(init=False)

    def __post_init__(self) -> None:
        ranks = range(1, len(self.items) + 1)
        running = accumulate(rank**-self.exponent for rank in ranks)
        object.__setattr__(self, "weights", list(running))

    def draw(self, rng: random.Random) -> Any:
        """Return one item."""
        return rng.choices(self.items, cum_weights=self.weights)[0]


def build_directory(rng: random.Random) -> Directory:
    """Return who and what exists, in the form of ``data.org.directory``."""
    users = dict(build_users(rng))
    people = ((name, {"team": each["team"], "user": name}) for name, each in users.items())
    kinds = {
        "server": build_servers(rng),
        "tool": build_tools(rng),
        "key": ((name, {"team": team}) for name, team in KEYS.items()),
        "catalog": ((name, {}) for name in ("servers", "tools")),
        "user": people,
    }
    resources = {
        f"{kind}/{name}": {"kind": kind, **each}
        for kind, entries in kinds.items()
        for name, each in entries
    }
    return {"users": users, "resources": resources}


def build_users(rng: random.Random) -> Iterator[tuple[str, Person]]:
    """Yield people and service accounts by id."""
    for number in range(1, USERS + 1):
        team = rng.choice(TEAMS)
        yield f"user-{number:04}", {"team": team, "roles": ["employee", *draw_roles(rng, team)]}
    for name, roles in SERVICE_ROLES.items():
        yield name, {"team": "platform", "roles": roles, "service": True}


def draw_roles(rng: random.Random, team: str) -> list[str]:
    """Return the roles of one person of a team, beside that of an employee."""
    if team == "support":
        return rng.choices([["support"], ["support", "lead"]], [85, 15])[0]
    choices = [["engineer"], ["engineer", "lead"], ["operator"], ["auditor"], ["admin"], []]
    weights = [56, 10, 20 if team == "platform" else 10, 6, 3, 12]
    return rng.choices(choices, weights)[0]


def build_servers(rng: random.Random) -> Iterator[tuple[str, Person]]:
    """Yield servers by name."""
    for family, count in SERVERS.items():
        for number in range(1, count + 1):
            environment = rng.choices(list(ENVIRONMENTS), list(ENVIRONMENTS.values()))[0]
            server = {"environment": environment, "team": rng.choice(TEAMS[:-1])}
            yield f"{family}-{number:03}", server


def build_tools(rng: random.Random) -> Iterator[tuple[str, Person]]:
    """Yield tools by name."""
    for sensitivity, names in TOOLS.items():
        for name in names.split():
            yield name, {"sensitivity": sensitivity, "team": rng.choice(TEAMS)}


@dataclass(frozen=True, slots=True)
class Traffic:
    """Draws requests for a directory.

    Attributes:
        rng: The only source of chance.
        directory: Who and what exists.
        denied: Users and resources that are explicitly denied; they take part like all others.
        popular: Resources by kind, the most wanted first.
        habits: What each user asks for, made when the user first appears.
    """

    rng: random.Random
    directory: Directory
    denied: dict[str, list[str]]
    popular: dict[str, Zipf]
    habits: dict[str, Zipf] = field(default_factory=dict)

    def requests(self, count: int) -> list[Request]:
        """Return ``count`` requests in a random order."""
        fleet = round(count * FLEET_SHARE)
        callers = self.rng.choices(list(FLEET), list(FLEET.values()), k=fleet)
        users = Zipf(self.ranked_users())
        callers += [users.draw(self.rng) for _ in range(count - fleet)]
        self.rng.shuffle(callers)
        return [self.habits_of(caller).draw(self.rng) for caller in callers]

    def ranked_users(self) -> list[str]:
        """Return everybody outside the fleet, the busiest first; the unwelcome not far behind."""
        users = [name for name in self.directory["users"] if name not in FLEET]
        self.rng.shuffle(users)
        unwelcome = [*self.denied["users"], *STRANGERS]
        users = [name for name in users if name not in unwelcome]
        for place, name in enumerate(unwelcome):
            users.insert(9 + 6 * place, name)
        return users

    def habits_of(self, user: str) -> Zipf:
        """Return the user's habits."""
        if user not in self.habits:
            origin = self.draw_origin(user)
            size = self.rng.randint(2, 6) + 3 * (user in FLEET)
            self.habits[user] = Zipf([self.draw_habit(user, origin) for _ in range(size)], 0.8)
        return self.habits[user]

    def draw_origin(self, user: str) -> dict[str, str]:
        """Return the address and API key with which a user's requests come."""
        if user in FLEET:
            return {"api_key_id": FLEET_KEY}
        if user.startswith("svc-"):
            return {"api_key_id": f"key-{user.removeprefix('svc-')}"}
        origin = {"ip": f"192.0.2.{len(self.habits) % 120 + 1}"} if self.chance(0.75) else {}
        if self.chance(0.15):
            origin["api_key_id"] = f"key-{user}"
        return origin

    def draw_habit(self, user: str, origin: dict[str, str]) -> Request:
        """Return a request that the user makes often."""
        person = self.directory["users"].get(user, {"roles": ["employee"]})
        actions = HABITS[person["roles"][-1]]
        action = self.rng.choices(list(actions), list(actions.values()))[0]
        resource = self.draw_resource(user, action)
        context = self.draw_context(person, action, resource)
        return Request(user, action, resource, context, **origin)

    def draw_resource(self, user: str, action: str) -> str:
        """Return what the action is on: popular, and of the user's own team where there is one."""
        kind, verb = action.split(":")
        kind = {"admin": "key"}.get(kind, kind)
        if verb == "list":
            return f"catalog/{kind}s"
        if kind == "user" and verb == "read" and self.chance(0.3):
            return f"user/{user}"
        if self.chance(0.015):
            return f"{kind}/retired-{self.rng.randint(1, 9)}"
        denied = [name for name in self.denied["resources"] if name.startswith(f"{kind}/")]
        if denied and self.chance(0.03):
            return self.rng.choice(denied)
        return self.draw_popular(user, kind)

    def draw_popular(self, user: str, kind: str) -> str:
        """Return a popular resource; of six drawn, the first that the user's team owns."""
        team = self.directory["users"].get(user, {}).get("team")
        drawn: list[str] = [self.popular[kind].draw(self.rng) for _ in range(6)]
        owned = [name for name in drawn if self.directory["resources"][name]["team"] == team]
        return (owned or drawn)[0]

    def draw_context(self, person: Person, action: str, resource: str) -> dict[str, str | bool]:
        """Return the context: empty or small, and never a value of one request alone."""
        context: dict[str, str | bool] = {}
        if resource.startswith(("server/", "tool/")) and self.chance(0.35):
            context["environment"] = self.draw_environment(resource)
        if action in {"user:grant", "admin:rotate-keys", "server:delete"} and self.chance(0.7):
            context["mfa"] = True
        on_call = bool({"operator", "lead"} & set(person["roles"]))
        if action in {"server:write", "tool:invoke"} and self.chance(0.2 if on_call else 0.02):
            context |= {"break_glass": True}
            if self.chance(0.75):
                context |= {"ticket": f"INC-{self.rng.randint(2041, 2052)}"}
        return context

    def draw_environment(self, resource: str) -> str:
        """Return the environment that a request names; seldom not the server's own."""
        actual = self.directory["resources"].get(resource, {}).get("environment")
        if actual and self.chance(0.97):
            return str(actual)
        return self.rng.choices(list(ENVIRONMENTS), list(ENVIRONMENTS.values()))[0]

    def chance(self, probability: float) -> bool:
        """Return true with this probability."""
        return self.rng.random() < probability


def shuffled(rng: random.Random, items: Sequence[T]) -> list[T]:
    """Return the items in a random order."""
    return rng.sample(items, len(items))


def read_denied(policies: Path) -> dict[str, list[str]]:
    """Return the users and resources that the hand-written data deny."""
    document = msgspec.json.decode((policies / "org" / "data.json").read_bytes())
    return {kind: list(names) for kind, names in document["denies"].items()}


def generate(seed: int, count: int, policies: Path) -> tuple[Directory, list[Request]]:
    """Return the directory and the requests of a seed."""
    directory = build_directory(random.Random(seed))
    rng = random.Random(seed + 1)
    popular = rank_resources(rng, directory)
    traffic = Traffic(rng, directory, read_denied(policies), popular)
    return directory, traffic.requests(count)


def rank_resources(rng: random.Random, directory: Directory) -> dict[str, Zipf]:
    """Return the resources of each kind in a random order of popularity."""
    resources = directory["resources"]
    kinds = sorted({each["kind"] for each in resources.values()})
    names = {k: [name for name, each in resources.items() if each["kind"] == k] for k in kinds}
    return {kind: Zipf(shuffled(rng, names[kind])) for kind in kinds}


def encode_directory(directory: Directory) -> bytes:
    """Return the directory as JSON with one entry a line."""
    kinds = ",\n".join(
        f'"{kind}": {{\n'
        + ",\n".join(f'  "{name}": {msgspec.json.encode(each).decode()}' for name, each in names)
        + "\n}"
        for kind, names in ((kind, entries.items()) for kind, entries in directory.items())
    )
    return f"{{\n{kinds}\n}}\n".encode()


def encode_requests(requests: Sequence[Request]) -> bytes:
    """Return the requests as JSON lines."""
    return msgspec.json.Encoder().encode_lines(requests)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's flags."""
    summary = "Write the sample directory and requests."
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--count", type=int, default=COUNT, help="number of requests")
    parser.add_argument("--out", type=Path, default=HERE / "requests.jsonl")
    parser.add_argument("--policies", type=Path, default=HERE / "policies")
    help_ = "where to write the directory (default: org/directory/data.json of the policies)"
    parser.add_argument("--directory", type=Path, help=help_)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write both files."""
    flags = parse_arguments(arguments)
    directory, requests = generate(flags.seed, flags.count, flags.policies)
    target = flags.directory or flags.policies / "org" / "directory" / "data.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(encode_directory(directory))
    flags.out.write_bytes(encode_requests(requests))
    print(f"{flags.out}: {len(requests)} requests")


if __name__ == "__main__":
    main()
