"""A batch, by its definition: the subgraph of the source induced by the entities of some parts, all semantic nodes and the
union of the samples of these parts. Reads a ``HeteroData`` and plain lists only."""

from naive import rng


def nodes_of(data, roles, node_part, parts, epoch, seed, quota):
    """Per node type, the global ids of the batch: ascending, but for entities of some parts, which are by (part, id)."""
    out = {}
    every = all(part in parts for t in node_part for part in node_part[t])
    for node_type in data.node_types:
        count = int(data[node_type].num_nodes)
        if roles[node_type] == "entity":
            inside = [i for i in range(count) if node_part[node_type][i] in parts]
            out[node_type] = inside if every else sorted(inside, key=lambda i: (node_part[node_type][i], i))
        elif roles[node_type] == "semantic":
            out[node_type] = list(range(count))
        else:
            drawn = set()
            for part in parts:
                drawn.update(rng.sample(seed, part, epoch, node_type, count, quota[node_type]))
            out[node_type] = sorted(drawn)
    return out


def edges_of(data, nodes):
    """Per edge type, the batch's edges [(local source, local destination, edge id)] by (destination, edge id)."""
    row = {t: {g: i for i, g in enumerate(ids)} for t, ids in nodes.items()}
    out = {}
    for edge_type in data.edge_types:
        source, _, destination = edge_type
        found = []
        for e_id, (s, d) in enumerate(data[edge_type].edge_index.t().tolist()):
            if s in row[source] and d in row[destination]:
                found.append((row[source][s], row[destination][d], e_id))
        out[edge_type] = sorted(found, key=lambda e: (e[1], e[2]))
    return out
