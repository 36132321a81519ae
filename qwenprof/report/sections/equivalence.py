"""Why the fix is exact: the derivation with this convolution's own shapes, and the rounding.

Formulas are plain text in code blocks, which every reader of markdown shows alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from qwenprof.diagnosis.bounds import number
from qwenprof.diagnosis.projection import comparison
from qwenprof.formatting import NOT_MEASURED, count, significant
from qwenprof.record.record import Record, Row
from qwenprof.report.section import Block, Code, Section, Table, paragraph, strong
from qwenprof.report.sections._convolution import Convolution, convolution
from qwenprof.report.telling import Telling

OFFSETS = {1: ("i",), 2: ("i", "j"), 3: ("i", "j", "k")}
SIGNIFICAND_BITS = {"bf16": 8, "fp16": 11, "fp32": 24}  # the implied one included
ACCUMULATION = 4.0  # as stage verify has it
CONV, RELATIVE, OUTPUT = "Conv3d", "relative error (2-norm)", "output"
UNKNOWN = Convolution(module="")


def compose(told: Telling) -> list[Block]:
    recorded = convolution(told.record)
    conv = recorded or UNKNOWN
    return [
        *_claim(conv, is_known=recorded is not None),
        paragraph(strong("1. The convolution, as it is defined.")),
        _lines(_definition(conv)),
        paragraph(strong("2. Its windows are disjoint."), f" {_disjoint(conv)}"),
        _lines(_windows(conv)),
        paragraph(strong("3. Each output is a dot product."), f" {_dot_in_words(conv)}"),
        _lines(_dot_product(conv)),
        paragraph(strong("4. Flattening moves nothing."), f" {_in_memory(conv)}"),
        *([] if conv.channels_last else [_lines(_offsets(conv))]),
        paragraph(strong("5. What is left is rounding."), f" {_rounding(told.record)}"),
        _lines(_bound(conv)),
        *_measured(told.record, conv),
    ]


def _lines(lines: Sequence[str | None]) -> Code:
    """Lines of a formula; None is one whose numbers were not recorded."""
    return Code(text="\n".join(line for line in lines if line is not None))


def _claim(conv: Convolution, *, is_known: bool) -> list[Block]:
    blocks: list[Block] = []
    if not is_known:
        said = "No convolution was recorded: stage dispatch did not run, or found none."
        blocks.append(paragraph(f"{said} What follows is for any nn.Conv3d of this kind."))
    elif not conv.is_complete:
        said = "Not all shapes of this convolution were recorded; where one is missing, its letter"
        blocks.append(paragraph(f"{said} stands alone. Stage dispatch records them."))
    claim = (
        "The convolution and the matrix product compute the same sums of the same products, over "
        "the same weights. They differ in the order of additions alone, so in rounding."
    )
    return [*blocks, paragraph(claim), _lines(_symbols(conv))]


def _symbols(conv: Convolution) -> list[str]:
    """The letters and what they are here."""
    return [
        f"N  {_sized(conv.windows, 'windows')}",
        f"C  {_sized(conv.channels, 'channels of the input')}",
        f"D  {_sized(conv.features, 'features of the output')}",
        f"{', '.join(_named('k', conv))}  the kernel{_here(conv.kernel)}",
        f"{', '.join(_named('s', conv))}  the stride{_here(conv.kernel)}",
        f"K  numbers in a window: {_product(conv)}",
    ]


def _sized(value: int | None, noun: str) -> str:
    return f"{count(value)} {noun}" if value else noun


def _named(letter: str, conv: Convolution) -> list[str]:
    """ "kt", "kh", "kw"."""
    return [f"{letter}{axis}" for axis in conv.axes]


def _here(sizes: Sequence[int]) -> str:
    return f": {' x '.join(map(str, sizes))}" if sizes else ""


def _product(conv: Convolution) -> str:
    letters = " * ".join(["C", *_named("k", conv)])
    if conv.terms is None:
        return letters
    numbers = " * ".join(map(str, (conv.channels, *conv.kernel)))
    return f"{letters} = {numbers} = {conv.terms}"


def _indices(conv: Convolution) -> str:
    return ", ".join(conv.axes)


def _loops(conv: Convolution) -> str:
    return ", ".join(("c", *OFFSETS[conv.rank]))


def _bias(conv: Convolution) -> str:
    return "" if conv.bias is False else "b[d] + "


def _reads(conv: Convolution, steps: Sequence[str]) -> str:
    """The place of the input that a term reads: "t*st + i, h*sh + j, w*sw + k"."""
    places = zip(conv.axes, steps, OFFSETS[conv.rank], strict=True)
    return ", ".join(f"{axis}*{step} + {offset}" for axis, step, offset in places)


def _definition(conv: Convolution) -> list[str | None]:
    loops, offsets = _loops(conv), ", ".join(OFFSETS[conv.rank])
    ends = zip(("c", *OFFSETS[conv.rank]), ("C", *_named("k", conv)), strict=True)
    return [
        f"y[n, d, {_indices(conv)}] = {_bias(conv)}sum over {loops} of",
        f"    W[d, {loops}] * x[n, c, {_reads(conv, _named('s', conv))}]",
        "",
        f"with {', '.join(f'0 <= {index} < {end}' for index, end in ends)}",
        f"here {_ranges(conv)}" if conv.terms else None,
        f"where {offsets} run over the kernel; padding 0, dilation 1, one group",
    ]


def _ranges(conv: Convolution) -> str:
    sizes = (conv.channels, *conv.kernel)
    names = ("c", *OFFSETS[conv.rank])
    return ", ".join(f"0 <= {index} < {size}" for index, size in zip(names, sizes, strict=True))


def _disjoint(conv: Convolution) -> str:
    """What the equal stride does to the windows, and how many this input has."""
    same = (
        "The stride equals the kernel, so along each axis one window ends where the next begins: "
        "no number of the input is in two of them."
    )
    if conv.is_cut:
        return f"{same} Here each sample is exactly one window, so each output index is 0."
    if conv.is_cut is False:
        grid = " x ".join(map(str, conv.grid))
        rest = any(size % step for size, step in zip(conv.sizes, conv.kernel, strict=True))
        left = " What does not fill a window at the end is dropped by both." if rest else ""
        return f"{same} Here each sample is cut into {grid} windows.{left}"
    return same


def _windows(conv: Convolution) -> list[str]:
    lines = []
    for place, axis in enumerate(conv.axes):
        size = f"k{axis}"
        general = f"{axis}: [{axis}*{size}, ({axis} + 1)*{size})"
        if conv.kernel:
            width = conv.kernel[place]
            general += f"    here 0..{width - 1}, {width}..{2 * width - 1}, ..."
        lines.append(general)
    return lines


def _dot_in_words(conv: Convolution) -> str:
    how_many = f"{count(conv.terms)} " if conv.terms else ""
    return (
        f"Number the {how_many}terms by m, the last index fastest. That is one to one, so a sum "
        "over the indices is a sum over m."
    )


def _flat_index(conv: Convolution) -> str:
    """ "((c*kt + i)*kh + j)*kw + k"."""
    text = "c"
    for size, offset in zip(_named("k", conv), OFFSETS[conv.rank], strict=True):
        text = f"({text})*{size} + {offset}" if text != "c" else f"c*{size} + {offset}"
    return text


def _dot_product(conv: Convolution) -> list[str | None]:
    loops, out = _loops(conv), _indices(conv)
    return [
        f"m = {_flat_index(conv)},    0 <= m < K",
        f"U[d, m] = W[d, {loops}]",
        f"V[(n, {out}), m] = x[n, c, {_reads(conv, _named('k', conv))}]",
        f"y[n, d, {out}] = {_bias(conv)}sum over m of V[(n, {out}), m] * U[d, m]",
        "",
        f"Y = V U^T{'' if conv.bias is False else ' + b'}    (N x K)(K x D)",
        _sizes_of_product(conv),
    ]


def _sizes_of_product(conv: Convolution) -> str | None:
    if not conv.is_complete:
        return None
    rows, terms, columns = conv.windows, conv.terms, conv.features
    return f"here ({rows} x {terms})({terms} x {columns}): nn.Linear({terms}, {columns})"


def _in_memory(conv: Convolution) -> str:
    """What of weight and input is a view, and what is copied."""
    if conv.channels_last:
        return (
            "Input or weight lies in memory with the channels last. Any order of m will do that is "
            "the same on both sides, and the fix takes that of the weight: U is still a view of "
            "it, and nothing but the input may have to be copied."
        )
    weight = (
        "A contiguous tensor keeps its last index fastest, which is the order of m: the (D, K) "
        "matrix U is the weight itself, read with other strides. Nothing is copied, and a "
        "gradient or an optimizer finds the parameter as it was."
    )
    if conv.is_cut:
        return f"{weight} The same holds of the input, whose samples are the rows of V."
    if conv.is_cut is False:
        return (
            f"{weight} The windows of a whole clip do not lie in one piece: V is a copy of the "
            "input in another order, once for each call, and the result is permuted back."
        )
    return weight


def _offsets(conv: Convolution) -> list[str]:
    loops = _loops(conv)
    lines = [f"W[d, {loops}] lies at d*K + {_flat_index(conv)} = d*K + m", "U = W.reshape(D, K)"]
    if conv.is_cut:
        lines.append("V = x.reshape(N, K)")
    if conv.is_complete:
        cut = f", V = x.reshape({conv.windows}, {conv.terms})" if conv.is_cut else ""
        lines.append(f"here U = W.reshape({conv.features}, {conv.terms}){cut}")
    return lines


def _rounding(record: Record) -> str:
    tf32 = (
        " With TF32 allowed, the factors of fp32 products are rounded to 11 bits first."
        if record.fact("device", "type") == "cuda"
        else ""
    )
    return (
        "Sums of rounded numbers depend on their order. A sum of K products that is kept in fp32 "
        "and rounded once at its end is off by one rounding of the result, u, and by what the "
        "additions lose: with independent roundings that grows with the root of K. This is the "
        "tolerance of stage verify, after Higham and Mary, SIAM J. Sci. Comput. 41(5), 2019; where "
        f"the terms cancel, verify widens it by as much.{tf32} Two ways that both keep to it "
        "differ by at most twice as much."
    )


def _bound(conv: Convolution) -> list[str]:
    lines = [f"error / result (2-norm) <= u(dtype) + {ACCUMULATION:g} * sqrt(K) * u(fp32)"]
    for dtype, bits in SIGNIFICAND_BITS.items():
        if conv.terms is None:
            lines.append(f"u({dtype}) = 2^-{bits} = {2.0**-bits:.3g}")
            continue
        sums = f"{ACCUMULATION:g} * sqrt({conv.terms}) * 2^-24"
        lines.append(f"{dtype}: 2^-{bits} + {sums} = {_tolerance(dtype, conv.terms):.3g}")
    return lines


def _tolerance(dtype: str, terms: int) -> float:
    return 2.0 ** -SIGNIFICAND_BITS[dtype] + ACCUMULATION * math.sqrt(terms) * 2.0**-24


def _measured(record: Record, conv: Convolution) -> list[Block]:
    """The errors that stage verify found, beside the bound; and how far apart both outputs are."""
    rows = [
        row
        for row in record.rows("verify", "checks")
        if (row.get("metric"), row.get("check")) == (RELATIVE, OUTPUT)
        and row.get("reference") == "fp64"
    ]
    apart = _apart(record)
    if rows:
        return [_errors(rows, conv), *apart]
    said = "How far either is from fp64 was not recorded: stage verify did not compare them."
    return [paragraph(said), *apart]


def _errors(rows: Sequence[Row], conv: Convolution) -> Table:
    """Both ways in each dtype."""
    body = []
    for dtype in SIGNIFICAND_BITS:
        here = [row for row in rows if row.get("dtype") == dtype]
        bound = f"{_tolerance(dtype, conv.terms):.3g}" if conv.terms else NOT_MEASURED
        ways = (
            [row for row in here if (row.get("variant") == CONV) is way] for way in (True, False)
        )
        body.append((dtype, bound, *(_error(way) for way in ways)))
    return Table(
        header=("dtype", "Bound", "Convolution", "Matrix product"),
        align="lrrr",
        rows=tuple(body),
        caption="Relative error of the output against fp64, as measured here; every check is in "
        "the section of stage verify.",
    )


def _error(rows: Sequence[Row]) -> str:
    values = [number(row.get("value")) for row in rows]
    known = [value for value in values if value is not None]
    return f"{max(known):.3g}" if known else NOT_MEASURED


def _apart(record: Record) -> list[Block]:
    """The largest difference of both outputs, and how much of a rounding step that is."""
    found = comparison(record)
    difference = number(found.linear.get("max_abs_difference")) if found else None
    if found is None or difference is None or difference <= 0:
        return []
    dtype = str(found.conv.get("dtype"))
    step = _step(difference, dtype)
    said = f"The largest difference of both outputs in {dtype} is {significant(difference)}."
    return [paragraph(f"{said}{step}")]


def _step(difference: float, dtype: str) -> str:
    """Where neighbouring numbers of the dtype are as far apart, if it is one such step."""
    exponent = round(math.log2(difference))
    bits = SIGNIFICAND_BITS.get(dtype)
    if bits is None or abs(exponent) > 60 or abs(difference / 2.0**exponent - 1) > 0.01:
        return ""
    least = exponent + bits - 1
    return (
        f" That is 2^{exponent}: neighbouring {dtype} numbers are as far apart from "
        f"{significant(2.0**least)} to {significant(2.0 ** (least + 1))}, so for outputs of that "
        "size it is one step of rounding."
    )


SECTION = Section(name="equivalence", order=84, title="Why the fix is exact", compose=compose)
