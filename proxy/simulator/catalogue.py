"""The merchants, their inventory and the lists made of them (core/README.md, "Endpoints"), the same for the same seed.

Owns what is for sale and how much of it is left. The lists are serialised once: 330 kB an answer is no work.
"""

from __future__ import annotations

import functools
import json
import random
from typing import Any, NamedTuple

_FIRST = (
    "Café", "Señor", "Crème", "Über", "Zoë’s", "Façade", "Smörgås", "Jalapeño", "Øresund", "Chloé", "Łódź", "東京",
    "Maple", "Harbor", "Summit", "Golden", "Urban", "Copper", "Willow", "Northern", "Blue", "Lucky", "Prairie",
)  # fmt: skip
_SECOND = (
    "Outfitters", "Kitchen", "Électronique", "Cinema", "Bäckerei", "Pharmacy", "Sports", "Books", "Taquería", "Home",
    "Toys", "Shoes", "Garden", "Travel", "Beauté", "Pets", "Grill", "Market", "Optik", "Hardware", "Spa", "Games",
)  # fmt: skip
_FACE_VALUES = (10, 15, 20, 25, 50, 75, 100, 150, 200, 250)
_TYPES = ("ecode", "physical", "newEcodeB2B", "newEcodeAsPre")


def dumps(value: object) -> bytes:
    """Serialise as CardCash does: compact, names in UTF-8 rather than escaped."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


class Stock(NamedTuple):
    """What is for sale before anything is sold, and the lists made of it."""

    merchants: dict[int, dict[str, Any]]
    offers: dict[int, list[dict[str, Any]]]
    buy: bytes
    sell: bytes
    bulk: bytes


@functools.lru_cache(maxsize=4)  # 25 ms of CPU: a process may have many simulators
def _stock(seed: int, count: int, quantity: int) -> Stock:
    chance = random.Random(seed)
    merchants: dict[int, dict[str, Any]] = {}
    offers: dict[int, list[dict[str, Any]]] = {}
    for number in range(1, count + 1):
        merchants[number], offers[number] = _merchant(number, chance, quantity)
    rows = [_sell_row(merchant, chance) for merchant in merchants.values()]
    bulk = [_bulk_row(merchant, offers[number]) for number, merchant in merchants.items()]
    buy = {"buyMerchants": list(merchants.values())}
    return Stock(merchants, offers, dumps(buy), dumps({"sellMerchants": rows}), dumps(bulk))


def _merchant(number: int, chance: random.Random, quantity: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Make one, and its offers."""
    name = f"{chance.choice(_FIRST)} {chance.choice(_SECOND)}"
    faces = sorted(chance.sample(_FACE_VALUES, chance.randint(2, 5)))
    offers = [_offer(number, index, face, chance, quantity) for index, face in enumerate(faces)]
    electronic = sum(offer["qty"] for offer in offers if offer["type"] != "physical")
    kinds = {"physical" if offer["type"] == "physical" else "ecode" for offer in offers}
    slug = f"{name} {number}".lower().replace(" ", "-")
    merchant = {
        "id": number,
        "name": name,
        "cardsAvailable": sum(offer["qty"] for offer in offers),
        "ecodesAvailable": electronic,
        "upToPercentage": max(offer["percentOff"] for offer in offers),
        "image": f"https://images.example.com/merchants/{number:04d}/card-front.png",
        "slug": slug,
        "primaryColor": f"#{number * 2_654_435_761 % (1 << 24):06x}" if number % 4 else None,
        "aliases": [name, f"{name} Gift Card", f"Gift cards of {name}"],
        "cardType": ("BOTH" if len(kinds) == 2 else kinds.pop()) if number % 50 else None,
        "popular": number % 10 == 1,
        "sellIsOff": int(number % 7 == 0),
        "featured": number if number % 25 == 0 else None,
        "maxFaceValue": faces[-1],
        "minFaceValue": faces[0],
        "affiliate_link": f"https://affiliates.example.com/{slug}" if number % 20 == 0 else None,
    }
    return merchant, offers


def _offer(number: int, index: int, face: int, chance: random.Random, quantity: int) -> dict[str, Any]:
    percent = chance.randint(2, 40) / 2
    return {
        "id": number * 10 + index,
        "faceValue": face,
        "percentOff": percent,
        "cost": round(face * (100 - percent) / 100, 2),
        "qty": quantity,
        "type": "ecode" if index == 0 else chance.choice(_TYPES),
        "isNew": index % 2 == 0,
        "isLowRisk": True,
        "tooltipMessages": [],
    }


def _bulk_row(merchant: dict[str, Any], offers: list[dict[str, Any]]) -> dict[str, Any]:
    shared = ("id", "name", "image", "slug", "primaryColor", "aliases", "cardsAvailable", "ecodesAvailable")
    percents = [offer["percentOff"] for offer in offers]
    return {
        **{name: merchant[name] for name in shared},
        "preownedAvailable": sum(offer["qty"] for offer in offers if not offer["isNew"]),
        "physicalAvailable": merchant["cardsAvailable"] - merchant["ecodesAvailable"],
        "lowRiskPOAvailable": sum(offer["qty"] for offer in offers if offer["isLowRisk"] and not offer["isNew"]),
        "minFaceValue": merchant["minFaceValue"],
        "maxFaceValue": merchant["maxFaceValue"],
        "minPercOff": min(percents),
        "maxPercOff": max(percents),
        "maxEcodePercOff": max(offer["percentOff"] for offer in offers if offer["type"] != "physical"),
        "newAvailable": any(offer["isNew"] for offer in offers),
    }


def _sell_row(merchant: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    return {
        "id": merchant["id"],
        "name": merchant["name"],
        "image": merchant["image"],
        "cashPercentage": chance.randint(100, 180) / 2,
        "acceptsEcode": True,
    }


class Catalogue:
    """`count` merchants with ids from 1 up, each with two to five face values and `quantity` cards of each."""

    def __init__(self, seed: int, count: int, quantity: int) -> None:
        stock = _stock(seed, count, quantity)
        self.merchants, self.buy, self.sell, self.bulk = stock.merchants, stock.buy, stock.sell, stock.bulk
        #: Its own: what is sold here is left elsewhere.
        self._offers = {number: [dict(offer) for offer in offers] for number, offers in stock.offers.items()}

    def offer(self, merchant_id: object, face_value: object) -> dict[str, Any] | None:
        """Return the offer of that face value (live: `qty` is what is left), or None."""
        offers = self._offers.get(merchant_id, []) if isinstance(merchant_id, int) else []
        return next((offer for offer in offers if offer["faceValue"] == face_value), None)

    def inventory(self, merchant_id: int) -> dict[str, Any] | None:
        """Answer GET /merchants/:id/inventory/bulk, or None for an unknown merchant."""
        merchant = self.merchants.get(merchant_id)
        if merchant is None:
            return None
        return {
            "id": merchant["id"],
            "image": merchant["image"],
            "buyMessage": f"Save up to {merchant['upToPercentage']} % at {merchant['name']}.",
            "description": f"Gift cards of {merchant['name']}, a merchant that does not exist anywhere.",
            "inventory": self._offers[merchant_id],
        }
