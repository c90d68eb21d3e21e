// What the kernels of causal_conv1d share: views with any strides, the parameters of a call, the
// tokens that a token sees, loads of a few elements.
#pragma once

#include "activation.cuh"
#include "element.cuh"
#include "launch.h"

namespace fusewright::cuda {

constexpr const char* kCausal = "causal_conv1d";

// A (batch, channels, time) tensor with any strides.
template <class T>
struct View {
    T* data = nullptr;
    int64_t b = 0, d = 0, t = 0;  // strides

    View() = default;
    explicit View(const Tensor& x)
        : data(static_cast<T*>(x.data_ptr())), b(x.stride(0)), d(x.stride(1)), t(x.stride(2)) {}
    explicit View(const std::optional<Tensor>& x) {
        if (present(x)) *this = View(*x);
    }
    __device__ T* row(int64_t batch, int64_t channel) const {
        return data + batch * b + channel * d;
    }
    __device__ T& at(int64_t batch, int64_t channel, int64_t time) const {
        return data[batch * b + channel * d + time * t];
    }
};

// The same of states, whose dtype is known at run time only.
struct StatesView {
    Untyped data;
    int64_t b = 0, d = 0, t = 0;

    StatesView() = default;
    explicit StatesView(const std::optional<Tensor>& x) : data(x) {
        if (present(x)) b = x->stride(0), d = x->stride(1), t = x->stride(2);
    }
    __host__ __device__ explicit operator bool() const { return static_cast<bool>(data); }
    template <class A>
    __device__ A load(int64_t batch, int64_t channel, int64_t i) const {
        return data ? load_one<A>(data, batch * b + channel * d + i * t) : A(0);
    }
    template <class A>
    __device__ void store(int64_t batch, int64_t channel, int64_t i, A value) const {
        if (data) store_one(data, batch * b + channel * d + i * t, value);
    }
};

// int32 or int64, (batch, time) or (batch,), with any strides.
struct Integers {
    const void* data = nullptr;
    bool wide = false;
    int64_t b = 0, t = 0;

    Integers() = default;
    explicit Integers(const std::optional<Tensor>& x) {
        if (!present(x) || x->numel() == 0) return;
        wide = x->scalar_type() == ScalarType::Long;
        FW_CHECK(wide || x->scalar_type() == ScalarType::Int, kCausal,
                 "expected scalar type Int or Long, found ",
                 torch::headeronly::toString(x->scalar_type()));
        data = x->data_ptr();
        b = x->stride(0);
        t = x->dim() > 1 ? x->stride(1) : 0;
    }
    __host__ __device__ explicit operator bool() const { return data != nullptr; }
    __device__ int64_t operator()(int64_t batch, int64_t time = 0) const {
        const int64_t i = batch * b + time * t;
        return wide ? static_cast<const int64_t*>(data)[i] : static_cast<const int32_t*>(data)[i];
    }
};

// Whether the token at t, of a sequence of its own, sees the one `lag` before it. Before the first
// token stand the states of its sequence.
__device__ inline bool sees(const Integers& ids, int64_t b, int64_t t, int64_t lag) {
    if (!ids) return true;
    const int64_t id = ids(b, t);
    return id >= 0 && (lag == 0 || id == ids(b, t > lag ? t - lag : 0));
}

// The kernels come in three forms.
enum class Form {
    whole,  // every pack is aligned and whole, and every token sees all before it
    seen,   // the same packs, with taps
    any,
};

// The sizes and parameters of one call.
struct Causal {
    int64_t batch, channels, length, width;
    bool silu;
    Untyped weight, bias;  // dense
    StatesView states;
    Integers ids;
    bool packed_weight = false;     // aligned to 16 bytes
    const uint8_t* taps = nullptr;  // (batch, length): bit `lag`, whether it sees that token

    template <Form form>
    __device__ unsigned tap(int64_t b, int64_t t) const {
        return form != Form::whole && taps != nullptr ? taps[b * length + t] : ~0u;
    }
};

// Where the gradients of weight and bias go, when they are summed up.
struct ParameterGradients {
    Untyped weight, bias;  // no data where they are not needed
    int64_t d = 0, k = 0, bias_d = 0;

    // The sum of place k in channel d; the bias follows the taps.
    template <class A>
    __device__ void store(int64_t channel, int64_t place, int64_t width, A sum) const {
        if (place < width) {
            if (weight) store_one(weight, channel * d + place * k, sum);
        } else if (bias) {
            store_one(bias, channel * bias_d, sum);
        }
    }
};

// What the backward reads and writes.
template <class T>
struct CausalBackward {
    View<const T> x, dy;
    View<T> dx;                   // no data where it is not needed
    StatesView dfinal, dinitial;  // the gradients of the final states, and of the initial ones
    acc_t<T>* partial;            // (parts, width + 1, channels): sums for weight and bias; or null
    ParameterGradients total;     // where they go without partial sums
};

template <class A>
__device__ inline A silu(A x) {
    return activate<Activation::silu>(x);
}
template <class A>
__device__ inline A silu_slope(A x) {
    return activate_grad<Activation::silu>(x);
}

// Approximate instructions, good to a few units in the last place of a float.
__device__ inline float power_of_2(float x) {
    asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
    return x;
}
__device__ inline float reciprocal(float x) {
    asm("rcp.approx.ftz.f32 %0, %0;" : "+f"(x));
    return x;
}
constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.69314718055994531f;
__device__ inline float silu(float x) { return x * reciprocal(1.f + power_of_2(-kLog2E * x)); }

// The backward multiplies the filters by -log2(e), and so the sums, whose slope then takes fewer
// instructions; all gradients at the sums are -ln(2) times the true ones.
__device__ inline float scaled_silu_slope(float x) {
    const float s = reciprocal(1.f + power_of_2(x));
    return s * fmaf(x, fmaf(s, -kLn2 * kLn2, kLn2 * kLn2), -kLn2);
}

// N elements as they travel. They stay words until they are unpacked: the compiler would unpack
// 16-bit elements right after the load, and wait for it there.
template <class T, int N>
struct alignas(sizeof(T) * N) Words {
    static constexpr int count = static_cast<int>(sizeof(T)) * N / 4;
    uint32_t words[count];
};

template <class T, int N>
__device__ inline void unpack(const Words<T, N>& from, float (&v)[N]) {
#pragma unroll
    for (int i = 0; i < Words<T, N>::count; ++i) {
        const uint32_t word = from.words[i];
        if constexpr (std::is_same_v<T, float>) {
            v[i] = __uint_as_float(word);
        } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
            v[2 * i] = __uint_as_float(word << 16);
            v[2 * i + 1] = __uint_as_float(word & 0xffff0000u);
        } else {
            const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&word));
            v[2 * i] = pair.x, v[2 * i + 1] = pair.y;
        }
    }
}

template <class T, int N>
__device__ inline Words<T, N> pack(const float (&v)[N]) {
    Words<T, N> to;
#pragma unroll
    for (int i = 0; i < Words<T, N>::count; ++i) {
        if constexpr (std::is_same_v<T, float>) {
            to.words[i] = __float_as_uint(v[i]);
        } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
            const __nv_bfloat162 pair = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
            to.words[i] = *reinterpret_cast<const uint32_t*>(&pair);
        } else {
            const __half2 pair = __floats2half2_rn(v[2 * i], v[2 * i + 1]);
            to.words[i] = *reinterpret_cast<const uint32_t*>(&pair);
        }
    }
    return to;
}

template <class T>
using Bits = std::conditional_t<sizeof(T) == 4, uint32_t,
                                std::conditional_t<sizeof(T) == 2, uint16_t, uint8_t>>;

// Elements [first, last) of N; the others are 0. Packs that are not whole have none, but in the
// form `any`, where a row may begin and end inside of one.
template <Form form, int N, class T>
__device__ inline Words<T, N> load_some(const T* from, int first, int last, bool packed) {
    constexpr int n = sizeof(T) < 4 ? 4 / sizeof(T) : 1;  // elements in a word
    Words<T, N> result = {};
    if constexpr (form == Form::any) {
        if (!packed || first > 0 || last < N) {
            const Bits<T>* bits = reinterpret_cast<const Bits<T>*>(from);
#pragma unroll
            for (int j = 0; j < N; ++j) {
                if (j >= first && j < last) {
                    result.words[j / n] |= uint32_t{bits[j]} << 32 / n * (j % n);
                }
            }
            return result;
        }
    }
    if (first <= 0 && last >= N) result = *reinterpret_cast<const Words<T, N>*>(from);
    return result;
}

template <Form form, int N, class T>
__device__ inline void store_some(T* to, const float (&v)[N], int first, int last, bool packed) {
    if constexpr (form == Form::any) {
        if (!packed || first > 0 || last < N) {
#pragma unroll
            for (int j = 0; j < N; ++j) {
                if (j >= first && j < last) to[j] = from_acc<T>(v[j]);
            }
            return;
        }
    }
    if (first <= 0 && last >= N) *reinterpret_cast<Words<T, N>*>(to) = pack<T>(v);
}

// Starts a copy of N elements, whole and aligned, to shared memory; `there` off makes them 0. A
// thread waits for its own copies: `copies_end` closes what belongs together, `copies_wait` is for
// all but the last so many of these groups.
template <class T, int N>
__device__ inline void copy_start(Words<T, N>& to, const T* from, bool there = true) {
    constexpr int bytes = sizeof(Words<T, N>);
    const auto at = static_cast<unsigned>(__cvta_generic_to_shared(&to));
    if constexpr (bytes == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from),
                     "r"(there ? bytes : 0)
                     : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(at), "l"(from),
                     "n"(bytes), "r"(there ? bytes : 0)
                     : "memory");
    }
}
__device__ inline void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int last>
__device__ inline void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(last) : "memory");
}

// v where a bit, of what a token sees, is set.
template <bool masked>
__device__ inline float keep(uint32_t bits, int bit, float v) {
    return !masked || (bits & 1u << bit) ? v : 0.f;
}

// The filters of C channels from d on, tap by tap, and their biases.
template <int W, int C, class P>
__device__ inline void load_filters(const P& p, int64_t d, int count, float (&w)[W][C],
                                    float (&bias)[C]) {
    with_element<true>(p.weight.dtype, [&](auto* type) {
        using E = std::remove_pointer_t<decltype(type)>;
        const E* from = static_cast<const E*>(p.weight.data) + d * W;
        if constexpr (C == 1 && W != 3) {
            if (p.packed_weight) {
                const auto taps = *reinterpret_cast<const Pack<E, W>*>(from);
#pragma unroll
                for (int k = 0; k < W; ++k) w[k][0] = static_cast<float>(to_acc(taps[k]));
                return;
            }
        }
        if (C > 1 && count == C && p.packed_weight) {
#pragma unroll
            for (int i = 0; i < W; ++i) {  // C filters of W taps are W packs of C elements
                const auto taps = *reinterpret_cast<const Pack<E, C>*>(from + i * C);
#pragma unroll
                for (int j = 0; j < C; ++j) {
                    w[(i * C + j) % W][(i * C + j) / W] = static_cast<float>(to_acc(taps[j]));
                }
            }
            return;
        }
#pragma unroll
        for (int i = 0; i < W * C; ++i) {
            w[i % W][i / W] = i < count * W ? static_cast<float>(to_acc(from[i])) : 0.f;
        }
    });
#pragma unroll
    for (int j = 0; j < C; ++j) {
        bias[j] = p.bias && j < count ? load_one<float>(p.bias, d + j) : 0.f;
    }
}

}  // namespace fusewright::cuda
