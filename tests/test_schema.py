"""Roles: given, inferred, refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from strategies import cases

from hasp import HaspError, Schema
from hasp.schema import Roles, edge_name, parse_edge_name

NODES = {"title": 100, "actor": 80, "genre": 7, "talent": 500}
LIKE, PLAYS, HAS, SUB, CAST = (
    ("title", "like", "title"),
    ("actor", "plays", "title"),
    ("title", "has", "genre"),
    ("genre", "sub", "genre"),
    ("talent", "in", "title"),
)
EDGES = [LIKE, PLAYS, HAS, SUB, CAST]


def test_roles_of_every_type():
    roles = Schema(entity=["title", "actor"], eel=[LIKE], sample={"talent": 20}).resolve(NODES, EDGES)
    assert roles.nodes == {"title": "entity", "actor": "entity", "genre": "semantic", "talent": "sampled"}
    assert roles.edges == {
        LIKE: "eel", PLAYS: "entity-entity", HAS: "entity-semantic", SUB: "semantic-semantic", CAST: "sampled",
    }  # fmt: skip
    assert (roles.entity, roles.semantic, roles.sampled) == (["title", "actor"], ["genre"], ["talent"])
    assert roles.quota == {"talent": 20} and roles.eel == [LIKE] and roles.inferred == {}
    assert roles.explain().splitlines()[-1] == "EEL       title__like__title"


def test_quota_is_capped_by_the_count():
    assert Schema(entity="title", sample={"talent": 9999, "actor": 0}).resolve(NODES, EDGES).quota == {
        "talent": 500,
        "actor": 0,
    }


def test_every_edge_between_entities_is_an_eel_when_eel_is_left_out():
    assert Schema(entity=["title", "actor"], sample={"talent": 1}).resolve(NODES, EDGES).eel == [LIKE, PLAYS]
    assert Schema(entity=["title", "actor"], eel=[], sample={"talent": 1}).resolve(NODES, EDGES).eel == []


def test_one_eel_and_one_name_need_no_list():
    a = Schema(entity="title", eel=LIKE, semantic="genre", sample={"actor": 1, "talent": 1})
    b = Schema(entity=("title",), eel=[list(LIKE)], semantic=["genre"], sample={"actor": 1, "talent": 1})
    c = Schema(entity="title", eel=["title__like__title"], semantic=["genre"], sample={"actor": 1, "talent": 1})
    d = Schema(entity="title", eel=("title__like__title",), semantic=["genre"], sample={"actor": 1, "talent": 1})
    assert a == b == c == d
    assert replace(a, eel=()).eel == () and replace(a, entity="title") == a
    assert a.resolve(NODES, EDGES) == b.resolve(NODES, EDGES)


@pytest.mark.parametrize(
    ("schema", "entity", "reason"),
    [
        (Schema(eel=[PLAYS], sample={"talent": 1}), ["title", "actor"], "an end of an EEL"),
        (Schema(sample={"talent": 1}), ["title"], "has links to its own type"),  # genre has too, but is a small vocabulary
        (Schema(sample={"title": 1}, semantic=None), ["genre"], "has links to its own type"),
    ],
)
def test_inferred_entities_say_why(schema, entity, reason):
    nodes = NODES if "title" not in (schema.sample or {}) else {"title": 100, "genre": 7}
    roles = schema.resolve(nodes, [e for e in EDGES if e[0] in nodes and e[2] in nodes])
    assert roles.entity == entity
    assert roles.inferred == dict.fromkeys(entity, reason)
    assert reason in roles.explain()


def test_without_links_the_largest_type_is_the_entity():
    roles = Schema().resolve({"a": 3, "b": 9, "c": 1}, [("a", "to", "b")])
    assert roles.entity == ["b"] and roles.inferred == {"b": "the largest node type"}


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Schema(entity="title", sample={"title": 3}), "node type 'title' has two roles; name it once"),
        (lambda: Schema(entity=["title", "title"]), "node type 'title' has two roles"),
        (lambda: Schema(semantic=["genre"], sample={"genre": 1}), "node type 'genre' has two roles"),
        (lambda: Schema(sample={"talent": -1}), r"sample\['talent'\] is a number of nodes >= 0, got -1; give a whole number"),
        (lambda: Schema(sample={"talent": 0.5}), "got 0.5; give a whole number"),
        (lambda: Schema(sample={"talent": True}), "got True; give a whole number"),
        (lambda: Schema(eel=[("title", "title")]), r"an edge type is \(source, relation, destination\).*give three names"),
        (lambda: Schema(eel=[("a", "b__c", "d")]), "have no '__' or '/', got 'b__c'; rename it"),
        (lambda: Schema(eel=["title_like"]), "spelled <source>__<relation>__<destination>, got 'title_like'; rename it"),
        (lambda: Schema(eel=[("a", "", "d")]), "are not empty"),
    ],
)
def test_a_schema_that_contradicts_itself(make, text):
    with pytest.raises(HaspError, match=text):
        make()


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (Schema(entity="movie"), r"names the node type 'movie', but the graph has \['title', .*correct the name"),
        (Schema(sample={"people": 2}), "names the node type 'people'.*correct the name"),
        (Schema(entity="title", eel=[("title", "likes", "title")]), r"names the EEL type .*'likes'.*correct the name"),
        (
            Schema(entity="title", eel=[PLAYS]),
            r"both ends of an EEL are entities, but .* ends in 'actor'; add 'actor'",
        ),
        (Schema(entity="title", semantic="genre", sample={"talent": 1}), "node type 'actor' has no role; name it in entity="),
        (
            Schema(entity="title"),
            r"duplicated in every part, but 'talent' has 500 nodes, more than the 100 entities of \['title'\]; use sample=",
        ),
        (Schema(semantic=["title", "actor", "genre", "talent"]), "at least one entity.*name it in entity="),
    ],
)
def test_a_schema_that_does_not_fit_the_graph(schema, text):
    with pytest.raises(HaspError, match=text):
        schema.resolve(NODES, EDGES)


def test_an_edge_type_that_ends_in_no_node_type():
    with pytest.raises(HaspError, match="ends in the node type 'studio', which the graph does not have; its node types are"):
        Schema(entity="title").resolve({"title": 3}, [("title", "of", "studio")])


def test_an_empty_graph_has_no_entity():
    with pytest.raises(HaspError, match="at least one entity"):
        Schema().resolve({}, [])
    with pytest.raises(HaspError, match="at least one entity"):
        Schema().resolve({"a": 0}, [])


@given(cases(attrs=False))
def test_roles_survive_json(case):
    roles = case.roles
    text = json.dumps(roles.to_json())
    back = Roles.from_json(json.loads(text))
    assert back == roles and list(back.nodes) == list(roles.nodes) and list(back.edges) == list(roles.edges)


@pytest.mark.parametrize("value", [{}, {"nodes": {}, "edges": []}, {"nodes": {}, "edges": {}}, {"nodes": 3}])
def test_a_stored_schema_that_is_none(value):
    with pytest.raises(HaspError, match=r"keys nodes, edges and quota, got .*; rebuild the parts"):
        Roles.from_json(value)


@given(cases(attrs=False))
def test_role_of_an_edge_follows_from_its_ends(case):
    roles = case.roles
    for edge_type, role in roles.edges.items():
        ends = {roles.nodes[edge_type[0]], roles.nodes[edge_type[2]]}
        if "sampled" in ends:
            assert role == "sampled"
        elif len(ends) == 2:
            assert role == "entity-semantic"
        elif ends == {"semantic"}:
            assert role == "semantic-semantic"
        else:
            assert role == ("eel" if edge_type in case.schema.eel else "entity-entity")
        assert parse_edge_name(edge_name(edge_type)) == edge_type


@pytest.mark.parametrize("name", ["a/b", "a__b", "", "a\n"])
def test_names_that_no_file_can_spell(name):
    with pytest.raises(HaspError, match="rename it"):
        Schema().resolve({name: 3, "b": 2}, [])


@pytest.mark.parametrize("other", [{"sample": {"title": 5}}, {"semantic": ["title", "genre"]}])
def test_an_end_of_an_eel_has_no_other_role(other):
    with pytest.raises(HaspError, match="both ends of an EEL are entities, but 'title' is named in sample= or semantic="):
        Schema(eel=[LIKE], **other).resolve(NODES, EDGES)


def test_no_entity_type_at_all():
    with pytest.raises(HaspError, match=r"at least one entity type, got entity=\[\]; name one of"):
        Schema(entity=[]).resolve(NODES, EDGES)


def test_a_quota_may_be_a_number_of_numpy():
    assert Schema(entity="title", sample={"talent": np.int64(9), "actor": 2}).resolve(NODES, EDGES).quota["talent"] == 9
