// Convolution and its two gradients by oneDNN, as XLA calls them: images in NHWC, kernels in HWIO, float32.

#include <oneapi/dnnl/dnnl.hpp>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using dnnl::memory;
using Array = ffi::Buffer<ffi::DataType::F32>;
using Shape = ffi::Span<const int64_t>;
using Tag = memory::format_tag;
constexpr auto kFloat = memory::data_type::f32;
constexpr auto kAlgorithm = dnnl::algorithm::convolution_direct;

static dnnl::engine& Engine() {
  static auto* engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *engine;
}

static dnnl::stream& Stream() {
  static thread_local dnnl::stream stream(Engine());
  return stream;
}

static memory::desc Maps(Shape d) { return {{d[0], d[3], d[1], d[2]}, kFloat, Tag::nhwc}; }

// oneDNN sees a kernel as (groups, channels of a group, inputs of a group, height, width).
static memory::dims KernelDims(Shape d, int64_t groups) { return {groups, d[3] / groups, d[2], d[0], d[1]}; }

static memory::desc AnyKernel(Shape d, int64_t groups) { return {KernelDims(d, groups), kFloat, Tag::any}; }

static memory::desc OurKernel(Shape d, int64_t groups) {
  return {KernelDims(d, groups), kFloat, memory::dims{d[3] / groups, 1, d[3], d[1] * d[2] * d[3], d[2] * d[3]}};
}

static memory At(const memory::desc& layout, const void* data) {
  return memory(layout, Engine(), const_cast<void*>(data));
}

static void Copy(memory from, memory to) { dnnl::reorder(from, to).execute(Stream(), from, to); }

static memory In(const memory::desc& layout, memory array) {
  if (array.get_desc() == layout) return array;
  memory copy(layout, Engine());
  Copy(array, copy);
  return copy;
}

struct Window {
  memory::dims strides, gaps, padding;
  int64_t groups;
  Window(int64_t stride, int64_t dilation, int64_t pad, int64_t groups)
      : strides{stride, stride}, gaps{dilation - 1, dilation - 1}, padding{pad, pad}, groups(groups) {}
};

static dnnl::convolution_forward::primitive_desc Plan(Shape x, Shape kernel, Shape y, const Window& w) {
  return {Engine(), dnnl::prop_kind::forward_training, kAlgorithm, Maps(x), AnyKernel(kernel, w.groups), Maps(y),
          w.strides, w.gaps, w.padding, w.padding};
}

template <class Work>
static ffi::Error Run(Work work) {
  try {
    work();
    Stream().wait();
    return ffi::Error::Success();
  } catch (const dnnl::error& error) {
    return ffi::Error::Internal(error.what());
  }
}

static ffi::Error Forward(Array x, Array kernel, ffi::Result<Array> y, int64_t stride, int64_t dilation, int64_t padding,
                          int64_t groups) {
  return Run([&] {
    Window w(stride, dilation, padding, groups);
    auto plan = Plan(x.dimensions(), kernel.dimensions(), y->dimensions(), w);
    auto weights = In(plan.weights_desc(), At(OurKernel(kernel.dimensions(), groups), kernel.untyped_data()));
    dnnl::convolution_forward(plan).execute(Stream(), {{DNNL_ARG_SRC, At(plan.src_desc(), x.untyped_data())},
                                                       {DNNL_ARG_WEIGHTS, weights},
                                                       {DNNL_ARG_DST, At(plan.dst_desc(), y->untyped_data())}});
  });
}

static ffi::Error InputGradient(Array dy, Array kernel, ffi::Result<Array> dx, int64_t stride, int64_t dilation,
                                int64_t padding, int64_t groups) {
  return Run([&] {
    Window w(stride, dilation, padding, groups);
    Shape x_shape = dx->dimensions(), kernel_shape = kernel.dimensions(), y_shape = dy.dimensions();
    dnnl::convolution_backward_data::primitive_desc plan(
        Engine(), kAlgorithm, Maps(x_shape), AnyKernel(kernel_shape, groups), Maps(y_shape), w.strides, w.gaps, w.padding,
        w.padding, Plan(x_shape, kernel_shape, y_shape, w));
    auto weights = In(plan.weights_desc(), At(OurKernel(kernel_shape, groups), kernel.untyped_data()));
    dnnl::convolution_backward_data(plan).execute(
        Stream(), {{DNNL_ARG_DIFF_DST, At(plan.diff_dst_desc(), dy.untyped_data())},
                   {DNNL_ARG_WEIGHTS, weights},
                   {DNNL_ARG_DIFF_SRC, At(plan.diff_src_desc(), dx->untyped_data())}});
  });
}

static ffi::Error KernelGradient(Array x, Array dy, ffi::Result<Array> dkernel, int64_t stride, int64_t dilation,
                                 int64_t padding, int64_t groups) {
  return Run([&] {
    Window w(stride, dilation, padding, groups);
    Shape x_shape = x.dimensions(), kernel_shape = dkernel->dimensions(), y_shape = dy.dimensions();
    dnnl::convolution_backward_weights::primitive_desc plan(
        Engine(), kAlgorithm, Maps(x_shape), AnyKernel(kernel_shape, groups), Maps(y_shape), w.strides, w.gaps, w.padding,
        w.padding, Plan(x_shape, kernel_shape, y_shape, w));
    auto ours = At(OurKernel(kernel_shape, groups), dkernel->untyped_data());
    bool same = plan.diff_weights_desc() == ours.get_desc();
    auto weights = same ? ours : memory(plan.diff_weights_desc(), Engine());
    dnnl::convolution_backward_weights(plan).execute(
        Stream(), {{DNNL_ARG_SRC, At(plan.src_desc(), x.untyped_data())},
                   {DNNL_ARG_DIFF_DST, At(plan.diff_dst_desc(), dy.untyped_data())},
                   {DNNL_ARG_DIFF_WEIGHTS, weights}});
    if (!same) Copy(weights, ours);
  });
}

#define EXPORT(name, function)                                                         \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, function,                                        \
                                ffi::Ffi::Bind()                                       \
                                    .Arg<Array>()                                      \
                                    .Arg<Array>()                                      \
                                    .Ret<Array>()                                      \
                                    .Attr<int64_t>("stride")                           \
                                    .Attr<int64_t>("dilation")                         \
                                    .Attr<int64_t>("padding")                          \
                                    .Attr<int64_t>("groups"))

EXPORT(forward, Forward);
EXPORT(input_gradient, InputGradient);
EXPORT(kernel_gradient, KernelGradient);
