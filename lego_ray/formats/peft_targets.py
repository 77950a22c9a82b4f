r"""PEFT's rule for `target_modules`: which modules' tensors it loads from an adapter's file.

PEFT makes the modules by the configuration, then fills them with the file's tensors, and passes over
tensors of other modules without an error (`check_target_module_exists`, PEFT 0.21). Such tensors are
left out here too: the update of an adapter is what PEFT applies, which its trainer scored, and an
edited list is how modules are switched off. Servers that go by the names of tensors may apply them.
A list that matches no module of the file is not compared: the keys were renamed after it was written, as
for another release of transformers.

A list names modules, or ends of their paths at a dot. A text is an expression for whole paths.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from lego_ray.errors import MalformedAdapter
from lego_ray.formats.factors import some
from lego_ray.formats.peft_beside import site_of_bias
from lego_ray.formats.peft_carried import SAVED_FOR_TASK
from lego_ray.formats.peft_config import PeftConfig
from lego_ray.formats.peft_experts import ExpertConfig
from lego_ray.formats.peft_keys import PREFIX, is_embedding_name, parse_factor
from lego_ray.formats.peft_parameters import ruled_by, split_base_layers
from lego_ray.formats.peft_patterns import FIX
from lego_ray.formats.peft_target_fields import Names, layers_of, names_of, patterns_of
from lego_ray.formats.wrappers import is_twice, without_doubt


@dataclass(slots=True)
class Targets:
    """What a configuration says of the modules that PEFT loads; and those found that it does not load.

    Attributes:
        targets: `target_modules`; None if every module may be one.
        excluded: `exclude_modules`; None for none.
        layers: `layers_to_transform`; None for all.
        patterns: Expressions that find the number of a layer, by `layers_pattern`.
        saved: `modules_to_save`, and those that PEFT adds to it for the task.
        where: The configuration file, for errors.
        unread: Fields whose expression could take too long, so that it is not compared.
        experts: What it says of parameters, which `target_modules` does not name.
        is_tied: Whether PEFT adapts an embedding and the output layer together.
        is_twice: Whether the model was made a PEFT model twice.
        is_foreign: Whether `target_modules` matches no module of the file, so that it is not compared.
        ignored: The modules found that PEFT does not load, each with the reason.
        loaded: Those that it loads.
    """

    targets: Names | None
    excluded: Names | None
    layers: frozenset[int] | None
    patterns: tuple[re.Pattern[str], ...]
    saved: tuple[str, ...]
    where: str
    unread: tuple[str, ...]
    experts: ExpertConfig
    is_tied: bool
    is_twice: bool
    is_foreign: bool = False
    ignored: dict[str, str] = field(default_factory=dict)
    loaded: set[str] = field(default_factory=set)

    @classmethod
    def of(
        cls,
        fields: Mapping[str, object],
        settings: PeftConfig,
        experts: ExpertConfig,
        names: Collection[str],
        where: str,
    ) -> Targets:
        """Reads them from a configuration.

        Args:
            fields: The configuration, parsed.
            settings: The same, as it was read.
            experts: What it says of parameters.
            names: Keys of the file's tensors, as they are in it.
            where: The configuration file, for the error.

        Raises:
            MalformedAdapter: If a value is of the wrong type, or is not a regular expression.
        """
        unread: list[str] = []
        targets = names_of(fields, "target_modules", names, unread, where)
        chosen = layers_of(fields, where) if targets and targets.matches is None else None
        return cls(
            targets,
            names_of(fields, "exclude_modules", names, unread, where),
            chosen,
            patterns_of(fields, names, unread, where) if chosen is not None else (),
            (*settings.modules_to_save, *SAVED_FOR_TASK.get(settings.task_type or "", ())),
            where,
            tuple(unread),
            experts,
            bool(fields.get("ensure_weight_tying")),
            is_twice(names),
        )

    def drop_if_foreign(self, keys: Iterable[str]) -> None:
        """Drops `target_modules` if it matches no module at all.

        Args:
            keys: Those of the file's tensors.
        """
        if self.targets is None:
            return
        for key in filter(None, map(parse_factor, keys)):
            module = split_base_layers(key.site)[0]
            if self._is_special(module):
                continue
            if any(map(self.targets.match, self._spelled(module))):
                self.is_foreign = False
                return
            self.is_foreign = True
        if self.is_foreign:
            self.targets = None

    def loads(self, path: str) -> bool:
        """Whether PEFT loads the tensors of a module, which is taken down.

        Args:
            path: The module's, as tensor keys without PEFT's prefix have it.
        """
        if path in self.loaded:
            return True
        if path in self.ignored:
            return False
        module = split_base_layers(path)[0]
        if self._is_special(module):
            self.loaded.add(path)
            return True
        reasons = [self._reason(each) for each in self._spelled(module)]
        if all(reasons):
            self.ignored[path] = reasons[0]
            return False
        self.loaded.add(path)
        return True

    def loads_tensor(self, key: str) -> bool:
        """The same of a tensor beside factors; True for one that is not of an adapted module.

        Args:
            key: Its key.
        """
        site = site_of_bias(key)
        return not site or self.loads(site)

    def notes(self) -> list[str]:
        """What to tell of modules that were left out, and of fields that were not compared.

        Raises:
            MalformedAdapter: If PEFT loads no module at all.
        """
        by_reason: dict[str, list[str]] = {}
        for path, reason in sorted(self.ignored.items()):
            by_reason.setdefault(reason, []).append(path)
        said = "; ".join(f"{reason} {some(paths)}" for reason, paths in by_reason.items())
        if self.ignored and not self.loaded:
            problem = f"PEFT would load no module of the file: {said}"
            raise MalformedAdapter(self.where, problem, FIX)
        notes = [
            f"{name} has an expression that could take too long to match, so it was not compared: the "
            "modules that have tensors were taken"
            for name in self.unread
        ]
        if self.is_foreign:
            notes.append(
                "target_modules matches no module of the file, as where keys were renamed, so it was "
                "not compared: the modules that have tensors were taken"
            )
        if said:
            count = len(self.ignored)
            modules = f"{count} modules were" if count > 1 else "1 module was"
            notes.append(f"{modules} left out, since PEFT does not load the tensors: {said}")
        return notes

    def names(self, path: str) -> bool:
        """Whether PEFT would adapt a module that is not in the file, if the base model has it."""
        return any(not self._reason(each) for each in self._spelled(path))

    def excludes(self, path: str) -> bool:
        """Whether `exclude_modules` matches a module's path, or a name of `target_modules`."""
        return self.excluded is not None and self.excluded.match(path)

    def _is_special(self, module: str) -> bool:
        """Whether PEFT adapts a module by another field than `target_modules`."""
        parameters = self.experts.parameters_of(module)
        return bool(parameters) or (self.is_tied and is_embedding_name(module))

    def _spelled(self, module: str) -> list[str]:
        """A module's path as it may have been when PEFT compared it."""
        module = ruled_by(module)
        spelled = [module, *([PREFIX + module] if self.is_twice else [])]
        if (plain := without_doubt(module)) != module:
            spelled.append(plain)
        return spelled

    def _reason(self, path: str) -> str:
        """Why PEFT does not load the tensors of a module; empty if it does."""
        if self.excludes(path):
            return "exclude_modules matches"
        if any(f".{name}." in f".{path}." for name in self.saved):
            return "modules_to_save has the whole of"
        if self.targets is None:
            return ""
        if not self.targets.match(path):
            return "target_modules does not match"
        if self.layers is None or self.targets.is_whole(path):
            return ""
        found = next((m for each in self.patterns if (m := each.match(path))), None)
        is_chosen = found is not None and int(found["idx"]) in self.layers
        return "" if is_chosen else "layers_to_transform does not have"
