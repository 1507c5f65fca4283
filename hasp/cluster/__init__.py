"""Builds whose work is spread over the machines of a cluster, or over the threads of this process: the same bytes.

One machine partitions and keeps the books; workers read the tables, bucket edges and write parts. On Ray::

    from hasp.cluster.on_ray import OnRay
    from hasp.cluster.ray_session import ray_session
    from hasp.cluster.tables import open_spread

    with ray_session("auto") as ray:
        spread, roles = open_spread("s3://bucket/tables", OnRay(ray), schema, reverse=True)
        build(spread.graph, roles, BuildConfig(num_parts=64), root="/shared/parts", spread=spread)

The parts go into a folder that all machines share. ``hasp build s3://bucket/tables /shared/parts --ray auto`` does the same.
"""
