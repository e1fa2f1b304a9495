#include "attention/cuda/reference_steps.h"

#include "attention/cuda/row_problem.cuh"
#include "core/cuda/launch.h"
#include "core/cuda/reduce.cuh"

namespace quietformer::cuda {
namespace {

constexpr int kThreads = 256;

unsigned blocks_for(std::int64_t count) {
  return static_cast<unsigned>((count + kThreads - 1) / kThreads);
}

__global__ void pointers_kernel(RowBlock b, OperandList list, void** pointers) {
  const int x = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (x >= b.tasks) return;
  const Operand& o = list.operand[blockIdx.y];
  pointers[std::int64_t{blockIdx.y} * b.tasks + x] =
      o.base + b.batch(x) * o.batch + b.kv_head(x) * o.head + x * o.task;
}

/// A block per row; a thread takes four neighbouring keys, as a Philox call does.
template <class T>
__global__ void drop_kernel(RowProblem<T> p, RowBlock b, T* scores) {
  const int x = static_cast<int>(blockIdx.y), batch = b.batch(x), head = b.head(x, p.group);
  const std::int64_t row = b.first_row + blockIdx.x;
  const SequencePlace s = sequence_of(p, batch, row);
  const std::int64_t i = row - s.first_query;
  const KeyRange keys = visible_keys(p, s, i);
  T* const row_of_scores = scores + b.at(x, blockIdx.x) + s.first_key;
  for (std::int64_t j = keys.begin / 4 * 4 + 4 * threadIdx.x; j < keys.end; j += 4 * kThreads) {
    T factors[4];
    dropout_factors(p, s.index, head, i, j, factors);
#pragma unroll
    for (int k = 0; k < 4; ++k)
      if (j + k >= keys.begin && j + k < keys.end) row_of_scores[j + k] *= factors[k];
  }
}

template <class T>
__global__ void totals_kernel(RowBlock b, const T* weights, double* totals, std::int64_t keys) {
  const int x = static_cast<int>(blockIdx.y);
  const std::int64_t c = b.key_begin + std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (c >= b.key_end) return;
  double sum = 0;
  for (int r = 0; r < b.rows; ++r) sum += static_cast<double>(weights[b.at(x, r) + c]);
  totals[x * keys + c] += sum;
}

template <class T>
__global__ void write_totals_kernel(RowBlock b, int heads, int group, const double* totals, T* out,
                                    std::int64_t keys) {
  const int x = static_cast<int>(blockIdx.y);
  const std::int64_t c = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (c < keys)
    out[(std::int64_t{b.batch(x)} * heads + b.head(x, group)) * keys + c] =
        static_cast<T>(totals[x * keys + c]);
}

/// Strides of a contiguous (B|1, H|1, L|1, S|1) tensor; whether a dimension is summed over.
struct BiasTarget {
  std::int64_t shape[4], stride[4];

  explicit BiasTarget(const Shape& bias) {
    std::int64_t step = 1;
    for (int d = 3; d >= 0; --d) {
      shape[d] = bias[d];
      stride[d] = bias[d] == 1 ? 0 : step;
      step *= bias[d];
    }
  }
  QF_HOST_DEVICE bool summed(int d) const { return stride[d] == 0; }
};

/// A block of threads per row of the target (queries from `first_row` on, in `blockIdx.x`), first
/// task of those that add to the same rows (in `blockIdx.y`) and, packed, every gridDim.z-th
/// sequence of a target that has one entry for each: it adds their contributions up in order.
template <class T, class Sum>
__global__ void __launch_bounds__(kThreads)
    bias_kernel(RowProblem<T> p, RowBlock b, const T* grads, BiasTarget target,
                std::int64_t first_row, Sum* out) {
  const int x = static_cast<int>(blockIdx.y), kv = b.kv_heads;
  const bool packed = p.cu_queries != nullptr;
  // Packed, all tasks are of batch entry 0, and sequences take the place of batch entries.
  const bool all_batches = packed || target.summed(0), all_heads = target.summed(1);
  int first = x, step = b.tasks, last = x + 1;  // tasks of the same target
  if (all_batches && all_heads) {
    first = 0, step = 1, last = b.tasks;
  } else if (all_batches) {
    first = x % kv, step = kv, last = b.tasks;
  } else if (all_heads) {
    const auto of_batch = (std::int64_t{b.batch(x)}) * kv - b.first_task;  // its key head 0
    first = of_batch > 0 ? static_cast<int>(of_batch) : 0, step = 1;
    last = static_cast<int>(of_batch + kv < b.tasks ? of_batch + kv : b.tasks);
  }
  if (first != x) return;
  const std::int64_t target_row = first_row + blockIdx.x;

  // Sum over one column, or over all where keys are broadcast, of everything that adds to it.
  const auto contributions = [&](int sequence_begin, int sequence_end, std::int64_t from,
                                 std::int64_t until, std::int64_t by) {
    double sum = 0;
    for (int t = first; t < last; t += step)
      for (int index = sequence_begin; index < sequence_end; ++index) {
        const SequencePlace s = sequence_at(p, packed ? index : b.batch(t));
        // The sequence's rows that are in this block and add to the target row.
        std::int64_t begin = b.first_row - s.first_query, end = begin + b.rows;
        if (begin < 0) begin = 0;
        if (end > s.queries) end = s.queries;
        if (!target.summed(2)) {
          if (target_row < begin || target_row >= end) continue;
          begin = target_row, end = target_row + 1;
        }
        for (std::int64_t i = begin; i < end; ++i) {
          const KeyRange keys = visible_keys(p, s, i);
          const T* const row = grads + b.at(t, s.first_query + i - b.first_row) + s.first_key;
          for (std::int64_t j = from; j < until && j < keys.end; j += by)
            if (j >= keys.begin) sum += static_cast<double>(row[j]);
        }
      }
    return sum;
  };

  const auto add = [&](int sequence_begin, int sequence_end) {
    Sum* const row = out + sequence_begin * target.stride[0] +
                     b.head(x, p.group) * target.stride[1] + target_row * target.stride[2];
    if (target.summed(3)) {
      const double sum = contributions(sequence_begin, sequence_end, threadIdx.x, p.keys, kThreads),
                   total = block_reduce<kThreads>(sum, Plus());
      if (threadIdx.x == 0) *row += static_cast<Sum>(total);
    } else {
      for (std::int64_t j = threadIdx.x; j < target.shape[3]; j += kThreads)
        row[j] += static_cast<Sum>(contributions(sequence_begin, sequence_end, j, j + 1, 1));
    }
  };
  if (!packed) return add(b.batch(x), b.batch(x) + 1);
  if (target.summed(0)) return add(0, p.sequences);
  for (int index = static_cast<int>(blockIdx.z); index < p.sequences;
       index += static_cast<int>(gridDim.z)) {
    const SequencePlace s = sequence_at(p, index);
    if (s.first_query < b.first_row + b.rows && b.first_row < s.first_query + s.queries)
      add(index, index + 1);
  }
}

template <class T>
__global__ void round_kernel(const double* sums, T* out, std::int64_t count) {
  for (std::int64_t i = first_index(); i < count; i += index_step())
    out[i] = static_cast<T>(sums[i]);
}

constexpr int kSums = kMaxHeadParameters + 1;

/// A block of threads per task.
__global__ void __launch_bounds__(kThreads)
    row_sums_kernel(RowBlock b, int group, const double* row_sums, double* sums) {
  const int x = static_cast<int>(blockIdx.x);
  for (int k = 0; k < kMaxHeadParameters; ++k) {
    double sum = 0;
    for (int r = static_cast<int>(threadIdx.x); r < b.rows; r += kThreads)
      sum += row_sums[(std::int64_t{x} * b.rows + r) * kMaxHeadParameters + k];
    sum = block_reduce<kThreads>(sum, Plus());
    if (threadIdx.x == 0)
      sums[(std::int64_t{b.batch(x)} * b.kv_heads * group + b.head(x, group)) * kSums + k] += sum;
  }
}

/// A block of threads per head.
template <class T>
__global__ void __launch_bounds__(kThreads)
    scale_gradient_kernel(MatrixView<const T> q, MatrixView<const T> dq, int heads,
                          std::int64_t rows, std::int64_t dim, double scale, double* sums) {
  const std::int64_t head = blockIdx.x, b = head / heads, h = head % heads;
  double sum = 0;
  for (std::int64_t e = threadIdx.x; e < rows * dim; e += kThreads)
    sum += static_cast<double>(q.at(b, h, e / dim)[e % dim]) *
           static_cast<double>(dq.at(b, h, e / dim)[e % dim]);
  sum = block_reduce<kThreads>(sum, Plus());
  if (threadIdx.x == 0) sums[head * kSums + kMaxHeadParameters] += sum / scale;
}

template <class T>
struct ParameterGradients {
  T* head[kMaxHeadParameters];
  T* scale;
};

/// One block of threads.
template <class T>
__global__ void __launch_bounds__(kThreads)
    parameter_gradients_kernel(const double* sums, int batch, int heads,
                               ParameterGradients<T> out) {
  double scale = 0;
  for (int h = static_cast<int>(threadIdx.x); h < heads; h += kThreads) {
    double total[kSums] = {};
    for (int b = 0; b < batch; ++b)
#pragma unroll
      for (int k = 0; k < kSums; ++k) total[k] += sums[(std::int64_t{b} * heads + h) * kSums + k];
#pragma unroll
    for (int k = 0; k < kMaxHeadParameters; ++k)
      if (out.head[k] != nullptr) out.head[k][h] = static_cast<T>(total[k]);
    scale += total[kMaxHeadParameters];
  }
  scale = block_reduce<kThreads>(scale, Plus());
  if (threadIdx.x == 0 && out.scale != nullptr) *out.scale = static_cast<T>(scale);
}

}  // namespace

void set_pointers(const Context& ctx, const RowBlock& block, const OperandList& operands,
                  void** pointers) {
  launch(ctx, "addresses of attention operands",
         {dim3(blocks_for(block.tasks), static_cast<unsigned>(operands.count)), dim3(kThreads)},
         pointers_kernel, block, operands, pointers);
}

template <class T>
void drop(const Context& ctx, const RowProblem<T>& problem, const RowBlock& b, T* scores) {
  launch(ctx, "attention dropout",
         {dim3(static_cast<unsigned>(b.rows), static_cast<unsigned>(b.tasks)), dim3(kThreads)},
         drop_kernel<T>, problem, b, scores);
}

template <class T>
void add_totals(const Context& ctx, const RowBlock& b, const T* weights, double* totals,
                std::int64_t keys) {
  if (b.key_end <= b.key_begin) return;
  launch(
      ctx, "total attention",
      {dim3(blocks_for(b.key_end - b.key_begin), static_cast<unsigned>(b.tasks)), dim3(kThreads)},
      totals_kernel<T>, b, weights, totals, keys);
}

template <class T>
void write_totals(const Context& ctx, const RowBlock& b, const RowProblem<T>& problem,
                  const double* totals, T* out) {
  if (problem.keys == 0) return;
  launch(ctx, "total attention",
         {dim3(blocks_for(problem.keys), static_cast<unsigned>(b.tasks)), dim3(kThreads)},
         write_totals_kernel<T>, b, problem.heads, problem.group, totals, out, problem.keys);
}

template <class T, class Sum>
void add_bias_gradient(const Context& ctx, const RowProblem<T>& problem, const RowBlock& b,
                       const T* grads, const Shape& bias, Sum* out) {
  if (bias.count() == 0 || problem.keys == 0) return;
  const bool packed = problem.cu_queries != nullptr;
  // Packed, rows of the block are anywhere in their sequences.
  const bool own_rows = !packed && bias[2] > 1;
  const std::int64_t rows = own_rows ? b.rows : bias[2], first_row = own_rows ? b.first_row : 0;
  constexpr std::int64_t kDeepest = 65535;  // a grid's z
  const auto sequences =
      packed && bias[0] > 1 ? static_cast<unsigned>(std::min(bias[0], kDeepest)) : 1;
  launch(ctx, "gradient of bias",
         {dim3(static_cast<unsigned>(rows), static_cast<unsigned>(b.tasks), sequences),
          dim3(kThreads)},
         bias_kernel<T, Sum>, problem, b, grads, BiasTarget(bias), first_row, out);
}

template <class T>
void round_sums(const Context& ctx, const double* sums, T* out, std::int64_t count) {
  if (count > 0)
    launch(ctx, "gradient of bias", shape_for(count), round_kernel<T>, sums, out, count);
}

void add_row_sums(const Context& ctx, const RowBlock& block, int group, const double* row_sums,
                  double* sums) {
  launch(ctx, "gradients of head parameters",
         {dim3(static_cast<unsigned>(block.tasks)), dim3(kThreads)}, row_sums_kernel, block, group,
         row_sums, sums);
}

template <class T>
void add_scale_gradient(const Context& ctx, const Tensor& q, const Tensor& dq, double scale,
                        double* sums) {
  const std::int64_t heads = q.shape[0] * q.shape[1];
  if (heads == 0) return;
  launch(ctx, "gradient of scale", {dim3(static_cast<unsigned>(heads)), dim3(kThreads)},
         scale_gradient_kernel<T>, MatrixView<const T>(q), MatrixView<const T>(dq),
         static_cast<int>(q.shape[1]), q.shape[2], q.shape[3], scale, sums);
}

template <class T>
void write_parameter_gradients(const Context& ctx, const AttentionProblem& p, const double* sums) {
  ParameterGradients<T> out{};
  for (int k = 0; k < kMaxHeadParameters; ++k) out.head[k] = p.d_head_parameters[k].as<T>();
  out.scale = p.dscale.as<T>();
  launch(ctx, "gradients of head parameters", {dim3(1), dim3(kThreads)},
         parameter_gradients_kernel<T>, sums, static_cast<int>(p.q.shape[0]),
         static_cast<int>(p.heads()), out);
}

#define QF_INSTANCE(T)                                                                             \
  template void drop(const Context&, const RowProblem<T>&, const RowBlock&, T*);                   \
  template void add_totals(const Context&, const RowBlock&, const T*, double*, std::int64_t);      \
  template void write_totals(const Context&, const RowBlock&, const RowProblem<T>&, const double*, \
                             T*);                                                                  \
  template void add_bias_gradient(const Context&, const RowProblem<T>&, const RowBlock&, const T*, \
                                  const Shape&, T*);                                               \
  template void round_sums(const Context&, const double*, T*, std::int64_t);                       \
  template void add_scale_gradient<T>(const Context&, const Tensor&, const Tensor&, double,        \
                                      double*);                                                    \
  template void write_parameter_gradients<T>(const Context&, const AttentionProblem&,              \
                                             const double*);
QF_INSTANCE(float)
QF_INSTANCE(double)
#undef QF_INSTANCE
template void add_bias_gradient(const Context&, const RowProblem<float>&, const RowBlock&,
                                const float*, const Shape&, double*);

}  // namespace quietformer::cuda
