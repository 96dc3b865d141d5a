"""Events of Camtrap DP and their pictures: by sequence in version 0.1, by deployment and time in 1.0.

Times are compared as instants: pictures often carry the offset of their place, and events UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from bestiary.data.formats.times import format_times, parse_instants
from bestiary.errors import SourceError

EVENT_IN_PICTURES = "event whose pictures have observations of their own"
EVENT_WITHOUT_PICTURES = "event without pictures"
_EVENT = ["deploymentID", "eventID"]


def match_events(
    events: pl.DataFrame, media: pl.DataFrame, of_pictures: pl.DataFrame, tables: Mapping[str, Path], *, is_keyed: bool
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return a row for each picture of each event, and the events that have none, with a reason.

    events, of_pictures: observations of events, and of pictures; media: the pictures. An event that also stands as
    pictures is none: neither its named pictures nor those within its time get a second label.
    """
    events_in_pictures = of_pictures.select(_EVENT).drop_nulls().unique()
    events = events.drop("mediaID").with_row_index("row")
    single = events.join(events_in_pictures, on=_EVENT, how="anti", maintain_order="left")
    if is_keyed:
        pairs = single.select("row", *_EVENT).join(
            media.select("mediaID", "deploymentID", eventID="sequenceID"), on=_EVENT, maintain_order="left"
        )
    else:
        pairs = _match_times(single, media, tables)
    free = pairs.join(of_pictures.select("mediaID"), on="mediaID", how="anti", maintain_order="left")
    rows = free.select("row", "mediaID").join(events, on="row", maintain_order="left")
    rows = rows.join(media.drop("deploymentID", "sequenceID"), on="mediaID", maintain_order="left")
    unmatched = events.join(free.select("row"), on="row", how="anti", maintain_order="left")
    is_without = pl.col("row").is_in(single["row"].implode()) & ~pl.col("row").is_in(pairs["row"].implode())
    reason = pl.when(is_without).then(pl.lit(EVENT_WITHOUT_PICTURES)).otherwise(pl.lit(EVENT_IN_PICTURES))
    return rows.drop("row"), unmatched.with_columns(reason=reason).drop("row")


def _match_times(events: pl.DataFrame, media: pl.DataFrame, tables: Mapping[str, Path]) -> pl.DataFrame:
    """Return the row of each event with the mediaID of each picture of its deployment, from its start to its end."""
    pairs = [pl.DataFrame(schema={"row": pl.UInt32, "mediaID": pl.String})]
    if not events.height or not media.height:
        return pairs[0]
    taken, is_zoned = _read_instants(media["time"], tables["media"], "timestamp")
    bounds = {}
    for name in ("eventStart", "eventEnd"):
        bounds[name], event_zoned = _read_instants(events[name], tables["observations"], name)
        if None not in (is_zoned, event_zoned) and is_zoned != event_zoned:
            with_zone, without = ("media", "observations") if is_zoned else ("observations", "media")
            raise SourceError(
                f"The times in {tables[with_zone]} have a time zone, those in {tables[without]} have none: events"
                " cannot find their pictures. Expected a time zone in both, such as 2020-05-30T04:57:37+02:00."
            )
    pictures = media.select("deploymentID", "mediaID").with_columns(taken.alias("time")).drop_nulls()
    by_deployment = pictures.sort("time").partition_by("deploymentID", as_dict=True)
    spans = events.select("row", "deploymentID").with_columns(**bounds).drop_nulls()
    for (deployment,), span in spans.partition_by("deploymentID", as_dict=True).items():
        if (own := by_deployment.get((deployment,))) is None:
            continue
        times = own["time"].to_numpy()
        first = np.searchsorted(times, span["eventStart"].to_numpy(), side="left")
        end = np.maximum(np.searchsorted(times, span["eventEnd"].to_numpy(), side="right"), first)
        rows = np.repeat(span["row"].to_numpy(), end - first)
        indices = np.concatenate([np.arange(a, b) for a, b in zip(first, end, strict=True)])
        pairs.append(pl.DataFrame({"row": pl.Series(rows, dtype=pl.UInt32), "mediaID": own["mediaID"].gather(indices)}))
    return pl.concat(pairs)


def _read_instants(times: pl.Series, table: Path, column: str) -> tuple[pl.Series, bool | None]:
    """Return times as UTC, and whether they have a time zone; None if there are none."""
    instants, zoned = parse_instants(format_times(times)[0])
    if len(zoned) > 1:
        raise SourceError(
            f"{table}: some times in {column} have a time zone and others have none. Expected one in each, such as"
            " 2020-05-30T04:57:37+02:00."
        )
    return instants, next(iter(zoned), None)
