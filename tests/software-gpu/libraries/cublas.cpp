// libcublas.so.13: products of column-major matrices.
#include <algorithm>
#include <optional>

#include "../device/memory.h"
#include "../device/streams.h"
#include "numbers.h"

#define SOFTGPU_API extern "C" SOFTGPU_EXPORT
using namespace softgpu;

namespace {

// cublasStatus_t
enum Status { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
// cublasComputeType_t: alpha and beta are f16 or f64 in these types, and f32 in all others.
enum Compute { COMPUTE_16F = 64, COMPUTE_16F_PEDANTIC = 65, COMPUTE_64F = 70, COMPUTE_64F_PEDANTIC = 71 };

struct Handle {
    void *stream = nullptr;
};

// cudaDataType_t
std::optional<Type> type_of(int code) {
    switch (code) {
    case 0: return Type::F32;
    case 1: return Type::F64;
    case 2: return Type::F16;
    case 14: return Type::BF16;
    default: return std::nullopt;
    }
}

Type scalar_type(int compute) {
    switch (compute) {
    case COMPUTE_16F:
    case COMPUTE_16F_PEDANTIC: return Type::F16;
    case COMPUTE_64F:
    case COMPUTE_64F_PEDANTIC: return Type::F64;
    default: return Type::F32;
    }
}

// One matrix of a batch; column j starts at j * leading.
struct Matrix {
    const void *data;
    Type type;
    int leading;
    long long stride;  // elements from one matrix of the batch to the next
    bool transposed;

    const char *at(int batch) const { return static_cast<const char *>(data) + batch * stride * (long long)size_of(type); }
    // Elements from the first to the last one used, in a rows x columns matrix.
    size_t extent(int rows, int columns) const {
        if (transposed) std::swap(rows, columns);
        return size_t(leading) * (columns - 1) + rows;
    }
};

struct Product {
    int m, n, k;
    float alpha, beta;
    Matrix a, b, c;
    int batch;
};

// Rows of op(matrix), one after another: `rows` rows of `inner` numbers.
std::vector<float> gather(const char *data, const Matrix &matrix, int rows, int inner, bool row_is_column) {
    const bool contiguous = matrix.transposed != row_is_column;
    const size_t extent = row_is_column ? matrix.extent(inner, rows) : matrix.extent(rows, inner);
    const auto all = read_numbers<float>(data, matrix.type, extent);
    std::vector<float> gathered(size_t(rows) * inner);
    for (int row = 0; row < rows; row++)
        for (int j = 0; j < inner; j++)
            gathered[size_t(row) * inner + j] = contiguous ? all[size_t(row) * matrix.leading + j] : all[size_t(j) * matrix.leading + row];
    return gathered;
}

// Eight parallel sums: a fixed order that the compiler can vectorize.
float dot(const float *x, const float *y, int count) {
    float sums[8] = {};
    int j = 0;
    for (; j + 8 <= count; j += 8)
        for (int lane = 0; lane < 8; lane++) sums[lane] += x[j + lane] * y[j + lane];
    float sum = 0;
    for (; j < count; j++) sum += x[j] * y[j];
    for (const float part : sums) sum += part;
    return sum;
}

void multiply(const Product &p, int number) {
    const char *a = p.a.at(number), *b = p.b.at(number), *c = p.c.at(number);
    const bool fits = check_range(a, p.a.extent(p.m, p.k) * size_of(p.a.type), "product, first operand") &&
                      check_range(b, p.b.extent(p.k, p.n) * size_of(p.b.type), "product, second operand") &&
                      check_range(c, p.c.extent(p.m, p.n) * size_of(p.c.type), "product, result");
    if (!fits) return;
    const auto rows = gather(a, p.a, p.m, p.k, false), columns = gather(b, p.b, p.n, p.k, true);
    for (int column = 0; column < p.n; column++)
        for (int row = 0; row < p.m; row++) {
            const float sum = dot(&rows[size_t(row) * p.k], &columns[size_t(column) * p.k], p.k);
            blend_number(const_cast<char *>(c), p.c.type, size_t(column) * p.c.leading + row, p.alpha, sum, p.beta);
        }
}

Status issue(const Handle *handle, const Product &p) {
    if (!handle) return NOT_INITIALIZED;
    if (p.a.type != p.b.type || (p.c.type != p.a.type && p.c.type != Type::F32)) return NOT_SUPPORTED;
    const int least_a = std::max(1, p.a.transposed ? p.k : p.m), least_b = std::max(1, p.b.transposed ? p.n : p.k);
    if (p.m < 0 || p.n < 0 || p.k < 1 || p.a.leading < least_a || p.b.leading < least_b || p.c.leading < std::max(1, p.m)) {
        fault("product of %d x %d and %d x %d: leading dimensions %d, %d, %d", p.m, p.k, p.k, p.n, p.a.leading, p.b.leading, p.c.leading);
        return INVALID_VALUE;
    }
    if (p.m == 0 || p.n == 0) return SUCCESS;
    submit(handle->stream, [=] {
        for (int number = 0; number < p.batch; number++) multiply(p, number);
    });
    return SUCCESS;
}

}  // namespace

SOFTGPU_API int cublasCreate_v2(Handle **handle) {
    *handle = new Handle;
    return SUCCESS;
}

SOFTGPU_API int cublasDestroy_v2(Handle *handle) {
    delete handle;
    return SUCCESS;
}

SOFTGPU_API int cublasSetStream_v2(Handle *handle, void *stream) {
    handle->stream = stream;
    return SUCCESS;
}

SOFTGPU_API int cublasSetWorkspace_v2(Handle *, void *, size_t) { return SUCCESS; }
SOFTGPU_API int cublasSetMathMode(Handle *, int) { return SUCCESS; }

SOFTGPU_API int cublasGemmStridedBatchedEx(Handle *handle, int transpose_a, int transpose_b, int m, int n, int k, const void *alpha,
                                           const void *a, int a_type, int lda, long long stride_a, const void *b, int b_type, int ldb,
                                           long long stride_b, const void *beta, void *c, int c_type, int ldc, long long stride_c, int batch,
                                           int compute, int) {
    const auto of_a = type_of(a_type), of_b = type_of(b_type), of_c = type_of(c_type);
    if (!of_a || !of_b || !of_c) return NOT_SUPPORTED;
    const Type scalar = scalar_type(compute);
    const Matrix first{a, *of_a, lda, stride_a, transpose_a != 0}, second{b, *of_b, ldb, stride_b, transpose_b != 0};
    const Matrix result{c, *of_c, ldc, stride_c, false};
    return issue(handle, {m, n, k, read_number(alpha, scalar, 0), read_number(beta, scalar, 0), first, second, result, batch});
}

SOFTGPU_API int cublasGemmEx(Handle *handle, int transpose_a, int transpose_b, int m, int n, int k, const void *alpha, const void *a,
                             int a_type, int lda, const void *b, int b_type, int ldb, const void *beta, void *c, int c_type, int ldc,
                             int compute, int algorithm) {
    return cublasGemmStridedBatchedEx(handle, transpose_a, transpose_b, m, n, k, alpha, a, a_type, lda, 0, b, b_type, ldb, 0, beta, c,
                                      c_type, ldc, 0, 1, compute, algorithm);
}

// The function that Candle calls for f64.
SOFTGPU_API int cublasDgemmStridedBatched(Handle *handle, int transpose_a, int transpose_b, int m, int n, int k, const double *alpha,
                                          const void *a, int lda, long long stride_a, const void *b, int ldb, long long stride_b,
                                          const double *beta, void *c, int ldc, long long stride_c, int batch) {
    return cublasGemmStridedBatchedEx(handle, transpose_a, transpose_b, m, n, k, alpha, a, 1, lda, stride_a, b, 1, ldb, stride_b, beta, c, 1,
                                      ldc, stride_c, batch, COMPUTE_64F, 0);
}
