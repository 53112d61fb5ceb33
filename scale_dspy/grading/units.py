"""Units of measurement in the languages that models reply in.

Units are a closed list, unlike nouns, since an answer in hours differs from one in minutes.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple


class Unit(NamedTuple):
    """The quantity that a unit measures, and its size in the base unit of that quantity."""

    quantity: str
    size: Fraction


def _list_units() -> dict[str, Unit]:
    table = {
        "length": "m=meter,meters,metre,metres,metern,mètre,mètres,metro,metros,м,метр,метра"
        ",метров,米,メートル 1;km=kilometer,kilometers,kilometre,kilometres,kilometern,kilomètres"
        ",kilómetros,км,километра,километров,千米,公里,キロメートル 1000"
        ";cm=centimeter,centimeters,centimetre,centimetres,zentimeter,centimètres,centímetros,см"
        ",сантиметра,сантиметров,厘米,センチメートル 1/100;dm=decimeters,дм,分米 1/10"
        ";mm=millimeter,millimeters,millimetre,millimetres,мм,毫米 1/1000"
        ";inch=inches,in,in. 127/5000"
        ";foot=feet,ft,ft. 381/1250;yard=yards,yd,yd. 1143/1250"
        ";mile=miles,mi,mi. 201168/125",
        "mass": "g=gram,grams,gm,gramm,gramme,grammes,gramos,г,грамм,грамма,граммов,克,グラム 1"
        ";kg=kilogram,kilograms,kgs,kilo,kilos,kilogramm,kilogrammes,kilogramos,кг,килограмм"
        ",килограмма,килограммов,千克,公斤,キログラム 1000"
        ";mg=milligram,milligrams 1/1000;pound=pounds,lb,lbs,lb.,lbs. 45359237/100000"
        ";ounce=ounces,oz,oz. 45359237/1600000;ton=tons 45359237/50;tonne=tonnes 1000000",
        "time": "second=seconds,s,sec,secs,sekunde,sekunden,seconde,secondes,segundo,segundos"
        ",секунда,секунды,секунд,秒,秒钟 1;minute=minutes,min,mins,minuten,minuto,minutos,минута"
        ",минуты,минут,мин,分钟,分鐘 60;hour=hours,h,hr,hrs,stunde,stunden,heure,heures,hora,horas"
        ",час,часа,часов,小时,小時,个小时,時間 3600"
        ";day=days,tag,tage,tagen,jour,jours,día,días,день,дня,дней,天,日間 86400"
        ";week=weeks,woche,wochen,semaine,semaines,semana,semanas,неделя,недели"
        ",недель,周,星期,週間 604800",
        "long time": "month=months,monat,monate,mois,mes,meses,месяц,месяца,месяцев,个月,か月 1"
        ";year=years,yr,yrs,jahr,jahre,jahren,an,ans,année,années,año,años,год,года,лет,年 12"
        ";decade=decades 120",
        "dollars": "dollar=dollars,usd,dólar,dólares,доллар,доллара,долларов,美元,ドル 1"
        ";cent=cents,美分 1/100",
        "euros": "euro=euros,eur,евро,欧元,ユーロ 1",
        "sterling": "pound sterling=gbp,pounds sterling,英镑 1;penny=pence,p 1/100",
        "rupees": "rupee=rupees,rs,rs. 1",
        "roubles": "rouble=roubles,rubles,rub,руб,рубль,рубля,рублей 1",
        "yuan or yen": "yuan=rmb,cny,yen,元,块,块钱,人民币,円,日元 1",
        "volume": "l=liter,liters,litre,litres 1;ml=milliliter,milliliters,millilitre,millilitres"
        " 1/1000;gallon=gallons,gal 473176473/125000000;quart=quarts 473176473/500000000"
        ";pint=pints 473176473/1000000000",
        "force": "n=newton,newtons 1",
        "energy": "j=joule,joules 1;kj=kilojoules 1000",
        "power": "w=watt,watts 1;kw=kilowatt,kilowatts 1000",
        "voltage": "v=volt,volts 1",
        "angle": "degree=degrees,deg 1;radian=radians,rad 0",
        "speed": "mph=miles/hour 1397/3125;km/h=kph,kmph,kilometers/hour 5/18"
        ";m/s=meters/second 1;ft/s=feet/second 381/1250",
        "before or after noon": "am=a.m.,a.m 1;pm=p.m.,p.m 2",
    }
    found = {}
    for quantity, entries in table.items():
        for entry in entries.split(";"):
            spelled, _, size = entry.rpartition(" ")
            first, _, others = spelled.partition("=")
            for name in (first, *others.split(",")):
                found[name] = Unit(quantity, Fraction(size))
    return found


UNITS = _list_units()
"""Units by name; only units of one quantity can be converted."""

_POWER_WORDS = {"square": 2, "sq": 2, "sq.": 2, "cubic": 3, "cu": 3, "cu.": 3}
_LETTER_UNITS = frozenset("m g s h l p n j w v".split())  # variables, unless inside \text{}
BARE_UNITS = frozenset(UNITS) - _LETTER_UNITS - {"in", "min", "rad", "a.m", "p.m", "am", "pm"}


def read_unit(spoken: str, power: int = 1) -> Unit | None:
    """Read a unit in words: `cm`, `square feet`, `miles per hour`, `units squared`."""
    spoken = spoken.strip(" .,;!)(").replace(" per ", "/").replace(" an hour", "/hour")
    first, _, rest = spoken.partition(" ")
    if first in _POWER_WORDS and rest:
        spoken, power = rest, _POWER_WORDS[first]
    for ending, value in ((" squared", 2), (" cubed", 3)):
        if spoken.endswith(ending):
            spoken, power = spoken.removesuffix(ending), value
    over, slash, under = spoken.partition("/")
    if slash and spoken not in UNITS:
        parts = UNITS.get(over.strip()), UNITS.get(under.strip())
        if parts[0] is None or parts[1] is None or not parts[1].size:
            return None
        return Unit(f"{parts[0].quantity}/{parts[1].quantity}", parts[0].size / parts[1].size)
    found = UNITS.get(spoken)
    if found is None or power == 1:
        return found
    return Unit(f"{found.quantity}^{power}", found.size**power)


_COMPOUND = re.compile(
    r"([0-9]+(?:\.[0-9]+)?)\s*(?:\\[,; ]"
    r"|~)*(?:\\text\s*\{\s*)?([A-Za-z]+\.?)\s*\}?[\s,~]*(?:(?:\\text\s*\{\s*)?and\s*\}?\s*)?"
)


def read_compound(text: str) -> tuple[Fraction, Unit] | None:
    """Read `6 feet 3 inches` in the base unit of its quantity; None for anything else."""
    total, quantities, end = Fraction(0), [], 0
    for match in _COMPOUND.finditer(text):
        unit = UNITS.get(match[2].casefold())
        if match.start() != end or unit is None:
            return None
        total, end = total + Fraction(match[1]) * unit.size, match.end()
        quantities.append(unit.quantity)
    if end != len(text) or len(quantities) < 2 or len(set(quantities)) > 1:
        return None
    return total, Unit(quantities[0], Fraction(1))
