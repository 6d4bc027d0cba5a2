"""A simulated accelerator: its tensors lie in this machine's memory, but carry another device, as a GPU's would.

Loaded with torch by every Python whose environment has MCVP_DEVICE=simulated. What a real accelerator refuses is
refused here: operations on its tensors and the CPU's together (single numbers and indices excepted), `numpy()`, a
generator of the other kind, and, as on Apple's, float64. Its type is `lazy`, which PyTorch has and nothing else uses:
gradients need no driver there. Whatever makes a tensor on it begins with `empty`, so two kernels make all of them;
two more are for lists.
"""
import functools
import sys
import types

INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
COPIES = {"copy_", "_to_copy", "set_"}  # from and to any device


def install(torch):
    """Make the simulated accelerator that of this process; called once torch is imported."""
    import torch.utils._device
    from torch.utils import _pytree as pytree
    from torch.utils._mode_utils import no_dispatch

    here, cpu = torch.device("lazy", 0), torch.device("cpu")

    class OnDevice(torch.Tensor):
        """A tensor on the simulated device; `inner` holds its numbers."""

        __torch_function__ = torch._C._disabled_torch_function_impl

        @staticmethod
        def __new__(cls, inner):
            if inner.dtype in (torch.float64, torch.complex128):
                raise TypeError(f"the simulated accelerator has no {inner.dtype}, and Apple's has none: use float32")
            made = torch.Tensor._make_wrapper_subclass(
                cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
                device=here)
            made.inner = inner
            return made

        @classmethod
        def __torch_dispatch__(cls, function, kinds, args=(), kwargs=None):
            parts = function.decompose(*args, **(kwargs or {}))  # tensors of inference mode bring composed operations
            return run(function, args, kwargs or {}) if parts is NotImplemented else parts

        def __repr__(self, **kwargs):
            return f"{repr(self.cpu())[:-1]}, device='{here}')"

        def __format__(self, form):
            return format(self.item() if self.ndim == 0 else repr(self), form)

        def __reduce_ex__(self, protocol):
            return self.detach().cpu().__reduce_ex__(protocol)

        def __deepcopy__(self, memo):
            if not getattr(self, "_is_param", False):
                return super().__deepcopy__(memo)
            memo[id(self)] = torch.nn.Parameter(self.detach().clone(), self.requires_grad)  # as theirs: no gradient
            return memo[id(self)]

        def numpy(self, **kwargs):
            raise TypeError(f"can't convert {here} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to "
                            "host memory first.")

        def tolist(self):
            return self.cpu().tolist()

        def as_subclass(self, cls):
            return self

    class Kind(type(torch.Generator)):
        """What `Generator` is made of: all generators are its instances, as those of PyTorch's own class."""

        def __instancecheck__(cls, one):
            return isinstance(one, make_generator)

        def __call__(cls, device="cpu"):
            if torch.device(device).type != here.type:
                return make_generator(device)
            made = make_generator()
            generators.add(made._cdata)
            return made

    def load(file, map_location=None, **kwargs):
        """`torch.load`, for this device, too."""
        if not isinstance(map_location, (str, torch.device)) or torch.device(map_location).type != here.type:
            return read(file, map_location=map_location, **kwargs)
        return pytree.tree_map_only(torch.Tensor, lambda one: one.to(here), read(file, map_location="cpu", **kwargs))

    make_generator, generators = torch.Generator, set()  # of the device, by address

    class Generator(torch.Generator, metaclass=Kind):
        """A random generator of any device."""

    class Autocast(torch.autocast):
        """Mixed precision, which this device has not."""

        def __init__(self, device_type, *args, enabled=True, **kwargs):
            if device_type == here.type:
                if enabled:
                    raise RuntimeError("the simulated accelerator computes in float32 only")
                super().__init__("cpu", enabled=False)
            else:
                super().__init__(device_type, *args, enabled=enabled, **kwargs)

    def run(function, args, kwargs):
        """Run an operation on what its tensors hold, after a look at where they are."""
        name = function.overloadpacket.__name__
        given = [one for one in pytree.tree_leaves((args, kwargs)) if isinstance(one, OnDevice)]
        if name not in COPIES:
            refuse_strangers(name, args, kwargs)
        inner_args, inner_kwargs = pytree.tree_map_only(OnDevice, lambda one: one.inner, (args, kwargs))
        to_cpu = kwargs.get("device") is not None and kwargs["device"].type != here.type
        if "device" in kwargs:
            inner_kwargs = inner_kwargs | {"device": cpu}
        found = function(*inner_args, **inner_kwargs)
        for one in given:
            if (one.shape, one.stride()) != (one.inner.shape, one.inner.stride()):
                with no_dispatch():  # squeeze_, resize_, out=: the tensor gets the shape of its numbers
                    one.data = OnDevice(one.inner)
        if to_cpu or (name == "copy_" and not isinstance(args[0], OnDevice)):
            return found
        outer = {id(one.inner): one for one in given}
        views = any(returned.alias_info is not None for returned in function._schema.returns)
        ordinary = views and not any(one.is_inference() for one in given)  # so are its views, in inference mode, too
        with torch.inference_mode(torch.is_inference_mode_enabled() and not ordinary):
            return pytree.tree_map_only(
                torch.Tensor, lambda one: outer[id(one)] if id(one) in outer else OnDevice(one), found)

    def refuse_strangers(name, args, kwargs):
        """Raise RuntimeError where something of the CPU stands beside tensors of the device."""
        if name in INDEXED:
            args = (args[0], *args[2:])
        for one in pytree.tree_leaves((args, kwargs)):
            if isinstance(one, torch.Tensor) and not isinstance(one, OnDevice) and one.ndim > 0:
                raise RuntimeError("Expected all tensors to be on the same device, but found at least two devices, "
                                   f"{here} and {one.device}! (in {name})")
            if isinstance(one, make_generator) and one._cdata not in generators:
                raise RuntimeError(f"Expected a '{here.type}' device type for generator but found '{one.device.type}'")

    def empty(size, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
        return OnDevice(torch.empty(size, dtype=dtype, memory_format=memory_format or torch.contiguous_format))

    def empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):
        return OnDevice(torch.empty_strided(size, stride, dtype=dtype))

    def copy_from(source, target, non_blocking=False):
        target.inner.copy_(source)
        return target

    library = torch.library.Library("aten", "IMPL")
    library.impl("empty.memory_format", empty, "Lazy")
    library.impl("empty_strided", empty_strided, "Lazy")
    library.impl("_copy_from", copy_from, "Lazy")  # lists as indices
    library.impl("_local_scalar_dense", lambda one: one.inner.item(), "Lazy")  # in a list of numbers
    OnDevice.kernels = library  # they are there as long as this object is

    def elsewhere(make):
        """`make`, which PyTorch lets fill the memory of the CPU only: tensors are made there, then moved."""
        @functools.wraps(make)
        def call(*args, device=None, **kwargs):
            if device is None or torch.device(device).type != here.type:
                return make(*args, device=device, **kwargs)
            wanted = kwargs.pop("requires_grad", False)
            return make(*args, **kwargs).to(here).requires_grad_(wanted)
        return call

    torch.utils._device._device_constructors()  # keeps the functions that `with torch.device(…)` is for
    read, torch.load = torch.load, load
    torch.Generator = Generator
    torch.tensor, torch.as_tensor = elsewhere(torch.tensor), elsewhere(torch.as_tensor)
    torch.autocast = torch.amp.autocast = Autocast
    torch.lazy = types.SimpleNamespace(  # the module of the device, as torch.cuda is
        is_available=lambda: True, device_count=lambda: 1, current_device=lambda: 0,
        synchronize=lambda device=None: None, empty_cache=lambda: None,
        get_rng_state=lambda device=None: torch.get_rng_state(),
        set_rng_state=lambda state, device=None: torch.set_rng_state(state))
    optimizer = sys.modules["torch.optim.optimizer"]
    fused = optimizer._get_fused_kernels_supported_devices
    optimizer._get_fused_kernels_supported_devices = lambda: [*fused(), here.type]
    torch.accelerator.is_available = lambda: True
    torch.accelerator.device_count = lambda: 1
    torch.accelerator.current_accelerator = lambda check_available=False: torch.device(here.type)
    torch.accelerator.current_device_index = torch.accelerator.current_device_idx = lambda: 0
    torch.accelerator.current_stream = lambda device=None: types.SimpleNamespace(is_capturing=lambda: False)
    torch.accelerator.synchronize = lambda device=None: None
    return OnDevice
