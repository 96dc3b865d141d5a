"""The frozen configuration of an experiment: as requested (`Recipe`), and with every default (`ResolvedRecipe`).

>>> recipe = Recipe.of({"model": {"method": "scratch"}}).resolve()
>>> recipe.picture.size, recipe.train.epochs
(128, 48)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, ValidationError, model_validator

from bestiary.defaults import augment_defaults, train_defaults
from bestiary.errors import RecipeError
from bestiary.recipe_errors import check_keys, format_validation_error
from bestiary.recipe_files import load_recipe_values, write_toml
from bestiary.recipe_sections import (
    BACKBONE_SIZES,
    SCRATCH_SIZE,
    AugmentConfig,
    DataConfig,
    EvaluateConfig,
    FeaturesConfig,
    InputConfig,
    ModelConfig,
    OnnxConfig,
    ProbeConfig,
    ResolvedInput,
    ResolvedTrain,
    Section,
    TrainConfig,
)

if TYPE_CHECKING:
    from bestiary.picture import DecodeLimits
    from bestiary.preprocess import Preprocessing


class Recipe(Section):
    """An experiment. Create one with `Recipe.of`, `Recipe.read` or keyword sections; `resolve` adds every default."""

    seed: int = Field(0, ge=0, lt=2**32, description="seed of the split, of training and of resampling")
    data: DataConfig = DataConfig()
    picture: InputConfig = InputConfig()
    model: ModelConfig = ModelConfig()
    features: FeaturesConfig = FeaturesConfig()
    onnx: OnnxConfig = OnnxConfig()
    probe: ProbeConfig = ProbeConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _check_split_fractions(self) -> Self:
        if (total := self.data.val_fraction + self.data.test_fraction) >= 0.9:
            raise ValueError(f"data.val_fraction + data.test_fraction = {total:g} leaves too little to train on")
        return self

    @classmethod
    def of(cls, values: Mapping[str, Any] | Recipe) -> Recipe:
        """Return the recipe with these settings; raises RecipeError naming the setting and the expected value."""
        if isinstance(values, Recipe):
            return values
        if not isinstance(values, Mapping):
            raise RecipeError(f'A recipe is nested settings, such as {{"train": {{"epochs": 30}}}}; got {values!r}.')
        check_keys(values, cls)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise RecipeError(format_validation_error(error)) from None

    @classmethod
    def read(cls, path: Path | str) -> Recipe:
        """Return a built-in recipe by name, or the recipe in a TOML file; raises RecipeError naming file and line."""
        return cls.of(load_recipe_values(str(path)))

    @property
    def feature_settings(self) -> FeaturesConfig:
        """Return the settings of features: float32 in cross-validation, which tests every picture."""
        is_open = self.data.folds and self.features.precision == "auto"
        return self.features.model_copy(update={"precision": "float32"}) if is_open else self.features

    @property
    def limits(self) -> DecodeLimits:
        """Return the limits of the picture decoder."""
        from bestiary.picture import DecodeLimits

        return DecodeLimits(self.picture.max_bytes, self.picture.max_pixels)

    def overrides(self) -> dict[str, Any]:
        """Return only the explicit settings, as nested plain values."""
        return self.model_dump(mode="json", exclude_unset=True, exclude_none=True)

    def resolve(self) -> ResolvedRecipe:
        """Return the recipe with a value for every setting."""
        scratch = self.model.method == "scratch"
        size = self.picture.size or (SCRATCH_SIZE if scratch else BACKBONE_SIZES.get(self.model.backbone, 224))
        normalise = self.picture.normalise or ("collection" if scratch else "backbone")
        explicit = self.train.model_dump(exclude_unset=True, exclude_none=True)
        values = self.model_dump()
        values["picture"] |= {"size": size, "normalise": normalise}
        augment = self.augment.model_dump(exclude_unset=True)
        values["augment"] = augment_defaults(self.model.method, augment) | augment
        values["train"] |= train_defaults(self.model.method, self.model.network, size, explicit) | explicit
        return ResolvedRecipe.model_validate(values)

    def override(self, settings: Mapping[str, Mapping[str, Any]]) -> Recipe:
        """Return the recipe with other settings, by section. Raises RecipeError for invalid ones."""
        values = self.overrides()
        return Recipe.of(values | {section: {**values.get(section, {}), **new} for section, new in settings.items()})

    def with_epochs(self, epochs: int | None) -> Recipe:
        """Return the recipe with this number of epochs (None: its own); an explicit warm-up is scaled with them."""
        before, warmup = self.resolve().train.epochs, self.train.warmup_epochs
        if epochs is None or epochs == before:
            return self
        scaled = {"warmup_epochs": warmup * epochs / before} if warmup else {}
        return self.override({"train": scaled | {"epochs": epochs}})

    def toml(self) -> str:
        """Return every setting that has a value, as TOML for `Recipe.read`."""
        return write_toml(self.model_dump(mode="json", exclude_none=True))

    def asked(self) -> dict[str, Any]:
        """Old name of `overrides`."""
        return self.overrides()

    def resolved(self) -> ResolvedRecipe:
        """Old name of `resolve`."""
        return self.resolve()


class ResolvedRecipe(Recipe):
    """A recipe in which no setting is None; see `Recipe.resolve`."""

    picture: ResolvedInput
    train: ResolvedTrain

    @property
    def preprocessing(self) -> Preprocessing:
        """Return the preprocessing of a picture for the model."""
        from bestiary.preprocess import Preprocessing

        return Preprocessing(self.picture.size, self.picture.fit, self.limits)
