"""A Client is a site's name, its session's token and some props."""

from __future__ import annotations

import time

from redflare_workers.apis import Client, ClientPropKey


def test_all_names_of_a_client_are_its_name_by_default() -> None:
    before = time.time()
    client = Client("site-1", "token")
    assert (client.name, client.get_token()) == ("site-1", "token")
    assert (client.get_fqcn(), client.get_fqsn(), client.get_is_leaf()) == ("site-1", "site-1", True)
    assert client.get_site_config() is None
    assert before <= client.last_connect_time <= time.time()
    assert repr(client) == "Client(name='site-1', fqcn='site-1')"


def test_properties_can_be_read_back() -> None:
    client = Client("site-1", "token")
    client.set_token("next")
    client.set_fqcn("site-1.job-1")
    client.set_fqsn("region/site-1")
    client.set_is_leaf(False)
    client.set_prop(ClientPropKey.ORG, "hospital")
    assert (client.token, client.get_fqcn(), client.get_fqsn()) == ("next", "site-1.job-1", "region/site-1")
    assert (client.get_is_leaf(), client.get_prop("org"), client.get_prop("absent", 1)) == (False, "hospital", 1)


def test_others_get_unusual_properties_and_never_the_token() -> None:
    client = Client("site-1", "token")
    assert client.to_dict() == {"name": "site-1"}
    config = {"gpus": [0, 1]}
    client.set_site_config(config)
    config["gpus"].append(2)
    client.set_fqcn("site-1.job-1")
    client.set_is_leaf(False)
    fields = client.to_dict()
    assert fields == {"name": "site-1", "fqcn": "site-1.job-1", "is_leaf": False, "site_config": {"gpus": [0, 1]}}
    fields["site_config"]["gpus"].clear()
    assert client.get_site_config() == {"gpus": [0, 1]}
