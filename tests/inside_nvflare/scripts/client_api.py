"""A trainer written for NVFlare's Client API; other packages' ``flare`` is put in place of the import.

Argument: FULL or DIFF, what it sends.
"""

import sys

import nvflare.client as flare
from learning import train


def main() -> None:
    flare.init()
    while flare.is_running():
        model = flare.receive()
        site = flare.system_info()["site_name"]
        print(flare.get_task_name(), site, model.current_round, model.total_rounds, flush=True)
        trained = train(model.params, site, model.current_round)
        if sys.argv[1] == "DIFF":
            trained = {name: trained[name] - model.params[name] for name in trained}
        meta = {"NUM_STEPS_CURRENT_ROUND": 10 if site == "site-1" else 30}
        flare.send(flare.FLModel(params_type=sys.argv[1], params=trained, meta=meta))


main()
