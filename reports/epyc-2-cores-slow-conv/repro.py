"""Conv3d against the equal Linear, for a bug report: needs torch alone, downloads nothing.
Usage: python repro.py [BATCH]. Exit code 0: reproduced, 1: not, 2: cannot tell. Written by qwenprof."""
import contextlib, statistics, sys, time, torch
BATCH, SHAPE = int((sys.argv[1:] or [760])[0]), (3, 2, 16, 16)  # samples; channels, one window
KERNEL, FEATURES, BIAS = (2, 16, 16), 1024, True  # the stride is the kernel
DTYPE, WANTED = torch.bfloat16, "cpu"
RECORDED = 116.0  # as recorded: how many times as fast as the convolution Linear was
torch.set_grad_enabled(False)
device = WANTED if getattr(torch, WANTED).is_available() else "cpu"
x = torch.randn(BATCH, *SHAPE, generator=torch.manual_seed(0)).to(device, DTYPE)
conv = torch.nn.Conv3d(SHAPE[0], FEATURES, KERNEL, KERNEL, bias=BIAS).to(device, DTYPE)
# PROVOKED ON PURPOSE, as recorded: the library is switched off for the convolution alone.
settings = (torch.backends.mkldnn if device == "cpu" else torch.backends.cudnn).flags  # off within

def multiply(x):  # the same map of each window, as one matrix product
    return torch.nn.functional.linear(x.flatten(1), conv.weight.flatten(1), conv.bias)

def timed(name, repeat=1):  # seconds of one call, and its result
    layer, around = layers[name]
    getattr(torch, device).synchronize()
    start = time.perf_counter()
    with around():
        for _ in range(repeat): y = layer(x)
    getattr(torch, device).synchronize()
    return (time.perf_counter() - start) / repeat, y
layers = {"conv": (conv, settings), "linear": (multiply, contextlib.nullcontext)}
first, repeat, samples = {}, {}, {"conv": [], "linear": []}
for name in layers:  # the first call apart; then as many in a row as fill 10 ms
    first[name] = timed(name)
    once_s = first[name][0] if first[name][0] > 0.5 else min(timed(name)[0] for _ in range(5))
    repeat[name] = int(0.01 / once_s) or 1
start = time.perf_counter()
for n in range(25):  # in turn, A B B A; no round but the first that would end after 20 s
    if (time.perf_counter() - start) * (n + 1) < 20 * max(n, 1):
        for name in sorted(layers, reverse=n % 2 == 1):
            samples[name].append(timed(name, repeat[name])[0])
ask, zeros = getattr(torch._C, "_select_conv_backend", lambda *_: None), [0] * len(KERNEL)
with settings():
    backend = ask(x, conv.weight, conv.bias, KERNEL, zeros, [1] * len(KERNEL), False, zeros, 1)
a, b = first["conv"][1].flatten(2).transpose(1, 2).flatten(0, 1), first["linear"][1]
conv, x = conv.cpu().double(), x[:64].cpu().double()  # in fp64, for some of the windows
errors = [(y[:64].cpu() - multiply(x)[:64]).abs().max() for y in (a, b)]
median_s = {name: statistics.median(each) for name, each in samples.items()}
factor = median_s["conv"] / median_s["linear"]
ratios = [conv_s / linear_s for conv_s, linear_s in zip(samples["conv"], samples["linear"])]
wanted = min(RECORDED, max(1.2, RECORDED**0.5))  # half of it on a log scale, but beyond noise
print("torch", torch.__version__, torch.version.git_version, "cuDNN", torch.backends.cudnn.version())
print("batch", BATCH, "on", device, "backend", getattr(backend, "name", "not told"))
for name, each in median_s.items():
    print(f"{name}: {each * 1e3:.4g} ms, n = {len(samples[name])}, first {first[name][0] * 1e3:.4g} ms")
print(f"most apart {(a - b).abs().max():.3g}; from fp64: conv {errors[0]:.3g}, linear {errors[1]:.3g}")
said = "REPRODUCED", "NOT REPRODUCED", f"CANNOT TELL: {WANTED} is not here, this ran on {device}"
code = 2 if device != WANTED else int(factor < wanted)
print(f"{said[code]} (linear {factor:.2f} times as fast; by round {min(ratios):.2f} to {max(ratios):.2f};",
      f"recorded {RECORDED})")
sys.exit(code)
