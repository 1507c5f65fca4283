"""A batch with its halo, by its definition. Reads a ``HeteroData`` and plain lists only."""

from naive import subgraph

MASKS = ("train_mask", "val_mask", "test_mask")


def nodes_of(data, roles, node_part, parts, epoch, seed, quota):
    """Per node type, the global ids of a batch: those it owns, then its halo by (owner, id), and how many it owns."""
    out = subgraph.nodes_of(data, roles, node_part, parts, epoch, seed, quota)
    owned = {t: len(ids) for t, ids in out.items()}
    inside = {t: set(ids) for t, ids in out.items()}
    for node_type in data.node_types:
        if roles[node_type] != "entity":
            continue
        far = set()
        for edge_type in data.edge_types:
            if edge_type[0] == node_type and roles[edge_type[2]] == "entity":
                for s, d in data[edge_type].edge_index.t().tolist():
                    if d in inside[edge_type[2]] and s not in inside[node_type]:
                        far.add(s)
        out[node_type] = out[node_type] + sorted(far, key=lambda v: (node_part[node_type][v], v))
    return out, owned


def edges_of(data, roles, nodes, owned):
    """Per edge type, the edges [(local source, local destination, edge id)]: those among the nodes of the plain batch, and,
    between entities, those from the halo to owned entities; all by (destination, edge id)."""
    row = {t: {g: i for i, g in enumerate(ids)} for t, ids in nodes.items()}
    out = {}
    for edge_type in data.edge_types:
        source, _, destination = edge_type
        both = roles[source] == roles[destination] == "entity"
        found = []
        for e_id, (s, d) in enumerate(data[edge_type].edge_index.t().tolist()):
            i, j = row[source].get(s, -1), row[destination].get(d, -1)
            if i >= 0 and 0 <= j < owned[destination] and (both or i < owned[source]):
                found.append((i, j, e_id))
        out[edge_type] = sorted(found, key=lambda e: (e[1], e[2]))
    return out
