#include "convolution.h"

#include "../../device/settings.h"

namespace softgpu::cudnn {
namespace {

// The three tensors as `Sum`s, with zeros in the result. Products are added in the type `Sum`.
template <typename Sum> class Loops {
  public:
    Loops(const Convolution &problem, const void *x, const void *w, const void *y)
        : p_(problem), x_(read(Pass::Data, problem.x, x)), w_(read(Pass::Filter, problem.w, w)), y_(read(Pass::Forward, problem.y, y)) {
        if (p_.pass == Pass::Forward) outputs_innermost();
    }

    // The sums of every element of the result.
    const std::vector<Sum> &run() {
        for (int64_t image = 0; image < p_.x.dims[0]; image++)
            for (int64_t row = 0; row < p_.y.dims[2]; row++)
                for (int64_t column = 0; column < p_.y.dims[3]; column++) output_pixel(image, row, column);
        switch (p_.pass) {
        case Pass::Forward: return y_;
        case Pass::Data: return x_;
        default: return w_;
        }
    }

  private:
    std::vector<Sum> read(Pass written_by, const Tensor &tensor, const void *data) const {
        if (p_.pass == written_by) return std::vector<Sum>(tensor.count());
        return read_numbers<Sum>(data, tensor.type, tensor.count());
    }

    // Rearranges w as [tap][group][channel][output], so that the innermost loop of the forward pass runs over outputs.
    void outputs_innermost() {
        forward_w_.resize(w_.size());
        for (int64_t output = 0; output < outputs_; output++)
            for (int64_t tap = 0; tap < taps_; tap++)
                for (int64_t channel = 0; channel < group_inputs_; channel++) {
                    const int64_t group = output / group_outputs_;
                    const int64_t to = ((tap * groups_ + group) * group_inputs_ + channel) * group_outputs_ + output % group_outputs_;
                    forward_w_[size_t(to)] = w_[size_t((output * taps_ + tap) * group_inputs_ + channel)];
                }
    }

    void output_pixel(int64_t image, int64_t row, int64_t column) {
        Sum *y = &y_[size_t(((image * p_.y.dims[2] + row) * p_.y.dims[3] + column) * outputs_)];
        for (int64_t i = 0; i < p_.w.dims[2]; i++) {
            const int64_t from_row = row * p_.window.stride[0] - p_.window.padding_before[0] + i * p_.window.dilation[0];
            if (from_row < 0 || from_row >= p_.x.dims[2]) continue;
            for (int64_t j = 0; j < p_.w.dims[3]; j++) {
                const int64_t from_column = column * p_.window.stride[1] - p_.window.padding_before[1] + j * p_.window.dilation[1];
                if (from_column < 0 || from_column >= p_.x.dims[3]) continue;
                Sum *x = &x_[size_t(((image * p_.x.dims[2] + from_row) * p_.x.dims[3] + from_column) * inputs_)];
                for (int64_t group = 0; group < groups_; group++)
                    tap(i * p_.w.dims[3] + j, group, x + group * group_inputs_, y + group * group_outputs_);
            }
        }
    }

    // Adds the products of one input pixel and one output pixel.
    void tap(int64_t tap, int64_t group, Sum *x, Sum *y) {
        if (p_.pass == Pass::Forward) {
            const Sum *w = &forward_w_[size_t((tap * groups_ + group) * group_inputs_ * group_outputs_)];
            for (int64_t channel = 0; channel < group_inputs_; channel++)
                for (int64_t output = 0; output < group_outputs_; output++) y[output] += x[channel] * w[channel * group_outputs_ + output];
            return;
        }
        for (int64_t output = 0; output < group_outputs_; output++) {
            Sum *w = &w_[size_t(((group * group_outputs_ + output) * taps_ + tap) * group_inputs_)];
            const Sum dy = y[output];
            if (p_.pass == Pass::Data)
                for (int64_t channel = 0; channel < group_inputs_; channel++) x[channel] += dy * w[channel];
            else
                for (int64_t channel = 0; channel < group_inputs_; channel++) w[channel] += dy * x[channel];
        }
    }

    const Convolution &p_;
    const int64_t inputs_ = p_.x.dims[1], outputs_ = p_.w.dims[0], taps_ = p_.w.dims[2] * p_.w.dims[3];
    const int64_t group_inputs_ = p_.w.dims[1], groups_ = inputs_ / group_inputs_, group_outputs_ = outputs_ / groups_;
    std::vector<Sum> x_, w_, y_, forward_w_;
};

template <typename Sum> void compute_in(const Convolution &problem, void *x, void *w, void *y) {
    Loops<Sum> loops(problem, x, w, y);
    const std::vector<Sum> &sums = loops.run();
    void *result = problem.pass == Pass::Forward ? y : problem.pass == Pass::Data ? x : w;
    for (size_t i = 0; i < sums.size(); i++) blend_number(result, problem.result().type, i, problem.alpha, float(sums[i]), problem.beta);
}

}  // namespace

bool Tensor::is_channels_last() const {
    return strides[1] == 1 && strides[3] == dims[1] && strides[2] == dims[1] * dims[3] && strides[0] == dims[1] * dims[2] * dims[3];
}

const Tensor &Convolution::result() const {
    switch (pass) {
    case Pass::Forward: return y;
    case Pass::Data: return x;
    default: return w;
    }
}

bool Convolution::is_consistent() const {
    for (const Tensor *tensor : {&x, &w, &y})
        if (!tensor->is_channels_last()) {
            fault("cuDNN: a tensor whose channels are not innermost");
            return false;
        }
    const bool channels_fit = x.dims[1] % w.dims[1] == 0 && w.dims[0] % (x.dims[1] / w.dims[1]) == 0;
    if (!channels_fit || x.dims[0] != y.dims[0] || w.dims[0] != y.dims[1]) {
        fault("cuDNN: channels or batch of the tensors of a convolution do not fit");
        return false;
    }
    for (int axis = 0; axis < 2; axis++) {
        const int64_t span = (w.dims[2 + axis] - 1) * window.dilation[axis] + 1;
        const int64_t padded = x.dims[2 + axis] + window.padding_before[axis] + window.padding_after[axis];
        const int64_t expected = (padded - span) / window.stride[axis] + 1;
        if (y.dims[2 + axis] != expected) {
            fault("cuDNN: output size %ld along axis %d of a convolution; expected %ld", long(y.dims[2 + axis]), axis, long(expected));
            return false;
        }
    }
    return true;
}

void Convolution::compute(void *x, void *w, void *y) const {
    if (settings().f64_convolutions) compute_in<double>(*this, x, w, y);
    else compute_in<float>(*this, x, w, y);
}

}  // namespace softgpu::cudnn
