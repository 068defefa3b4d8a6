"""PEFT's tensors of an (IA)³ adapter, both ways: `base_model.model.<module>.ia3_l` and the tensors of heads.

Reading trusts shapes, not names: (out, 1) multiplies an output, (1, in) an input, whatever the config says of
feed-forward modules. That is how adapters are read that PEFT wrote with `all-linear` and cannot load. Writing puts each
vector where PEFT's own format holds it, fused projections whole, and refuses what that format cannot express. This file
knows tensors and paths; folders are `folder`'s matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ia3.adapters.config import AdapterConfig
from ia3.adapters.layout import Place, spread_out
from ia3.adapters.targets import is_feedforward
from ia3.core.projections import Projection, whole_site
from ia3.core.sites import Side, Site
from ia3.errors import AdapterError
from ia3.spelling import first_of

PREFIX = "base_model.model."
# PEFT leaves the adapter's name out of the key; a raw state dict of its model has it behind `ia3_l`.
_VECTOR = re.compile(r"(?P<module>.+)\.ia3_l(?:\.(?P<adapter>[^.]+))?")
# What PEFT's wrappers put into the name of a module that is saved whole.
_WRAPPED = re.compile(r"\.modules_to_save(?:\.[^.]+)?(?=\.)|\.base_layer(?=\.)")


def read_tensors(tensors: Mapping[str, Tensor], config: AdapterConfig, where: str) -> Tensors:
    """Return the vectors and heads among the tensors of an `adapter_model` file.

    Args:
        tensors: Content of the file.
        config: Says the side of a vector of shape (1, 1), and the base for errors.
        where: Path of the file, for errors.

    Raises:
        AdapterError: For a vector of a convolution or of an odd shape, for numbers that are not finite, and where there
            are no vectors at all; every faulty tensor is named (the first five).
    """
    vectors: dict[Place, Tensor] = {}
    head: dict[str, Tensor] = {}
    faults: list[str] = []
    for key, tensor in sorted(tensors.items(), key=_by_layer):  # files hold them in any order
        name = key.removeprefix(PREFIX)
        match = _VECTOR.fullmatch(name)
        if ".original_module." in name:  # the base's own, in a raw state dict
            continue
        if ".token_adapter." in name or "trainable_tokens" in name:
            faults.append(f"{key!r} trains rows of the embeddings (trainable_token_indices), which is not supported")
        elif not torch.isfinite(tensor).all():
            faults.append(f"{key!r} holds numbers that are not finite")
        elif match is None:
            head[_WRAPPED.sub("", name)] = tensor
        else:
            fault = _shape_fault(key, tensor)
            place = (match["module"], _side(tensor, match["module"], config))
            if fault is None and any(module == place[0] for module, _ in vectors):
                fault = f"{key!r} is a second vector for its module; the file holds several adapters"
            if fault is None:
                vectors[place] = tensor.flatten().to(torch.float32)
            else:
                faults.append(fault)
    if faults:
        raise AdapterError(_with_faults(f"Reading {where}", faults, "Save the adapter again."))
    if not vectors:
        raise AdapterError(
            f"Reading {where}: it holds no (IA)³ vector, got {len(tensors)} tensors "
            f"({', '.join(map(repr, list(tensors)[:3])) or 'none'}), expected names that end in '.ia3_l'."
        )
    return Tensors(vectors, head)


def _by_layer(item: tuple[str, Tensor]) -> list[str | int]:
    """Return what sorts tensors by name, layer 2 before layer 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", item[0])]


def _side(tensor: Tensor, module: str, config: AdapterConfig) -> Side:
    if tuple(tensor.shape) == (1, 1):
        return "input" if is_feedforward(config, module) else "output"
    return "output" if tensor.dim() and tensor.shape[-1] == 1 else "input"


def _shape_fault(key: str, tensor: Tensor) -> str | None:
    if tensor.dim() in (4, 5):
        return f"{key!r} has shape {tuple(tensor.shape)} and scales a convolution, which is not supported"
    if not tensor.is_floating_point():
        return f"{key!r} is {tensor.dtype}, expected floating point"
    if tensor.dim() != 2 or 1 not in tensor.shape or tensor.numel() == 0:
        return f"{key!r} has shape {tuple(tensor.shape)}, expected (channels, 1) or (1, channels)"
    return None


def whole_sites(vectors: Mapping[Place, Tensor]) -> tuple[Site, ...]:
    """Return a site for each place, over all of its channels: what PEFT means by a vector."""
    return tuple(
        whole_site(Projection(module, inputs=len(vector), outputs=len(vector)), side)
        for (module, side), vector in vectors.items()
    )


def cut_vectors(sites: Iterable[Site], vectors: Mapping[Place, Tensor]) -> dict[str, Tensor] | None:
    """Return the vectors of known sites, cut out of PEFT's; the inverse of `place_vectors`.

    Returns:
        The vectors by site name, or None if the file holds other places or widths than these sites need, or a number
        that none of them takes.
    """
    sites = tuple(sites)
    places = peft_places(sites)
    if set(places.values()) != set(vectors):
        return None
    cut = {}
    for site in sites:
        place = places[site.name]
        whole = vectors[place]
        is_own = place == (site.module, site.side)
        if len(whole) != (site.features if is_own else site.width):
            return None
        cut[site.name] = whole[torch.tensor(site.channels.indices())].clone() if is_own else whole
    placed = place_vectors(sites, cut)
    return cut if all(torch.equal(placed[place], whole) for place, whole in vectors.items()) else None


def peft_places(sites: Sequence[Site]) -> dict[str, Place]:
    """Return the place of each site in PEFT's format, by the site's name.

    Usually PEFT's place of the family; a site's own where two sites would meet there.
    """
    own = {(site.module, site.side) for site in sites}
    wanted = [site.peft or (site.module, site.side) for site in sites]
    return {
        site.name: place if site.peft and wanted.count(place) == 1 and place not in own else (site.module, site.side)
        for site, place in zip(sites, wanted, strict=True)
    }


def place_vectors(sites: Sequence[Site], vectors: Mapping[str, Tensor]) -> dict[Place, Tensor]:
    """Return the vectors in PEFT's places, whole: shape (channels of that side,), ones where no site is.

    Raises:
        AdapterError: If PEFT cannot express it: vectors on both sides of one module.
    """
    places = peft_places(sites)
    at_home = [site for site in sites if places[site.name] == (site.module, site.side)]
    placed = spread_out(at_home, vectors)
    placed |= {places[s.name]: vectors[s.name] for s in sites if places[s.name] != (s.module, s.side)}
    modules = [module for module, _ in placed]
    both = sorted({module for module in modules if modules.count(module) > 1})
    if both:
        raise AdapterError(
            f"Writing an adapter in PEFT's format: {both[0]!r} has a vector on its input and one on its output, and "
            "PEFT holds one for each module. Exclude one side from the plan."
        )
    return {place: placed[place] for place in dict.fromkeys(places.values())}


def write_tensors(vectors: Mapping[Place, Tensor], head: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the content of `adapter_model.safetensors`: fp32 vectors of PEFT's shapes, and heads as they are.

    Args:
        vectors: As `place_vectors` returns them.
        head: Tensors by their full name in the base.
    """
    content = {
        f"{PREFIX}{module}.ia3_l": vector.to(torch.float32).reshape((-1, 1) if side == "output" else (1, -1)).clone()
        for (module, side), vector in vectors.items()
    }
    # a clone each: safetensors refuses tensors that share memory
    return content | {f"{PREFIX}{name}": tensor.detach().clone().contiguous() for name, tensor in head.items()}


def _with_faults(doing: str, faults: Sequence[str], advice: str) -> str:
    return f"{doing}: {first_of(faults, 5, mark='; ')}. {advice}"


@dataclass(frozen=True)
class Tensors:
    """What a file of PEFT's holds.

    Attributes:
        vectors: By place, each of shape (channels of that side,), fp32.
        head: Tensors of heads by their full name in the base, as they are in the file.
    """

    vectors: Mapping[Place, Tensor]
    head: Mapping[str, Tensor]
