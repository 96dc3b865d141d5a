"""Names of taxa, which Wildlife Insights and SpeciesNet spread over seven fields: id, class to species, common name."""

from __future__ import annotations

import polars as pl

RANKS = ("class", "order", "family", "genus", "species")
COMMON_NAME = "common_name"


def scientific_name() -> pl.Expr:
    """Return the scientific name from columns of `RANKS`: genus and species, else the lowest rank that has a name.

    The columns are text without surrounding white space, null where they are empty. Without any rank, the common name:
    "blank", "vehicle" and "animal" are no taxa.
    """
    genus, species = pl.col("genus"), pl.col("species")
    # "No CV Result" stands in every rank.
    is_no_taxon = (pl.col("class").str.to_lowercase() == genus.str.to_lowercase()).fill_null(False)
    name = pl.coalesce(genus + " " + species.str.to_lowercase(), genus, "family", "order", "class", COMMON_NAME)
    return pl.when(is_no_taxon).then(COMMON_NAME).otherwise(name)


def split_taxon(taxon: pl.Expr) -> list[pl.Expr]:
    """Return the columns of `RANKS` and `COMMON_NAME` of "id;class;order;family;genus;species;common name".

    Names of taxa begin with a capital, as they are written elsewhere. Null where a field is empty or missing.
    """
    fields = taxon.str.split(";")
    columns = []
    for index, name in enumerate((*RANKS, COMMON_NAME), start=1):
        text = fields.list.get(index, null_on_oob=True).str.strip_chars()
        if name in RANKS[:-1]:
            text = text.str.slice(0, 1).str.to_uppercase() + text.str.slice(1)
        columns.append(pl.when(text != "").then(text).alias(name))
    return columns
