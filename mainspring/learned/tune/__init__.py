"""Tuning by measurement: a space, a search that is asked and told, a model of the cost, a guard, and a store of trials.

With this you can find the settings of anything that can be run and timed:

    space = Space((Choice("policy", ("lru", "clock")), Whole("pages", 64, 65536, log=True)), {"policy": "lru", "pages": 1024})
    search = ModelSearch(space, budget=60)
    while not search.should_stop():
        for config in search.ask(4):
            search.tell(config, cost=measure(config))
    verdict = confirm(lambda: measure(space.default), lambda: measure(search.best))
    config = search.best if verdict.better else space.default

Costs are positive and only their ratios count: seconds, bytes, misses. Nothing here knows what is tuned.
"""

from mainspring.learned.tune.guard import Verdict, confirm
from mainspring.learned.tune.search import ModelSearch, RandomSearch, Search
from mainspring.learned.tune.space import Choice, Domain, Real, Space, Table, Whole
from mainspring.learned.tune.store import Store, Trial, Winner
from mainspring.learned.tune.surrogate import Surrogate, Trials

__all__ = ["Choice", "Domain", "ModelSearch", "RandomSearch", "Real", "Search", "Space", "Store", "Surrogate", "Table", "Trial",
           "Trials", "Verdict", "Whole", "Winner", "confirm"]
