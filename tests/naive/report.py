"""The report's counts, from the source and the partition, one node and one edge at a time."""

from naive.bucket import part_of_edge


def neighbours(data, eel):
    """{(type, id): set of distinct neighbours over the EEL types, itself left out}; only entities with one."""
    out = {}
    for edge_type in eel:
        for s, d in data[edge_type].edge_index.t().tolist():
            a, b = (edge_type[0], s), (edge_type[2], d)
            if a != b:
                out.setdefault(a, set()).add(b)
                out.setdefault(b, set()).add(a)
    return out


def recount(data, roles, eel, node_part, num_parts):
    """Entities, edges, cut, linked entities and degree groups, spelled as the report's fields are."""
    name = "__".join
    entities = {t: [0] * num_parts for t, role in roles.items() if role == "entity"}
    for node_type, counts in entities.items():
        for part in node_part[node_type]:
            counts[part] += 1
    edges, cut = {}, {}
    for edge_type in data.edge_types:
        ends = [roles[edge_type[0]], roles[edge_type[2]]]
        if "entity" not in ends:
            continue
        edges[name(edge_type)] = [0] * num_parts
        if ends == ["entity", "entity"]:
            cut[name(edge_type)] = 0
        for s, d in data[edge_type].edge_index.t().tolist():
            part = part_of_edge(edge_type, s, d, node_part)
            if part == "cut":
                cut[name(edge_type)] += 1
            else:
                edges[name(edge_type)][part] += 1
    groups = [[0, 0, 0] for _ in range(num_parts)]
    for (node_type, i), others in neighbours(data, eel).items():
        group = 0 if len(others) <= 3 else 1 if len(others) <= 6 else 2
        groups[node_part[node_type][i]][group] += 1
    return {
        "entities": entities,
        "edges": edges,
        "cut": cut,
        "linked": [sum(g) for g in groups],
        "degree_groups": groups,
        "num_edges": {name(e): data[e].edge_index.shape[1] for e in data.edge_types},
        "num_nodes": {t: int(data[t].num_nodes) for t in data.node_types},
    }
