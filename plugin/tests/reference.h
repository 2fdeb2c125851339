#ifndef BERT_PLUGIN_TESTS_REFERENCE_H
#define BERT_PLUGIN_TESTS_REFERENCE_H

// BERT's operations in float64, written for reading. Tensors are rows of tokens.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace reference {

using Values = std::vector<double>;

// binary16 <-> double, by arithmetic and so independently of the library's bit tricks.
inline double FromHalf(uint16_t half) {
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  const double magnitude = exponent == 31  ? (fraction != 0 ? NAN : INFINITY)
                           : exponent == 0 ? std::ldexp(fraction, -24)
                                           : std::ldexp(1024 + fraction, exponent - 25);
  return (half & 0x8000) != 0 ? -magnitude : magnitude;
}

inline uint16_t ToHalf(double value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(value);
  if (std::isnan(value)) return static_cast<uint16_t>(sign | 0x7e00);
  if (magnitude >= 65520) return static_cast<uint16_t>(sign | 0x7c00);
  if (magnitude == 0) return sign;
  int exponent = 0;
  std::frexp(magnitude, &exponent);
  exponent = std::max(exponent, -13);  // below 2^-14 the steps stay 2^-24
  const double steps = std::nearbyint(std::ldexp(magnitude, 11 - exponent));
  return static_cast<uint16_t>(sign + static_cast<int>(steps) + ((exponent + 13) << 10));
}

inline double Half(double value) { return FromHalf(ToHalf(value)); }

// E4M3 <-> double: no infinity, 0x7f is NaN, the largest number is 448.
inline double FromE4m3(uint8_t bits) {
  const int exponent = bits >> 3 & 15, fraction = bits & 7;
  const double magnitude = (bits & 127) == 127 ? NAN
                           : exponent == 0     ? std::ldexp(fraction, -9)
                                               : std::ldexp(8 + fraction, exponent - 10);
  return (bits & 0x80) != 0 ? -magnitude : magnitude;
}

// To nearest, halves to even, saturated; `value` is a number.
inline uint8_t ToE4m3(double value) {
  const uint8_t sign = std::signbit(value) ? 0x80 : 0;
  const double magnitude = std::min(std::fabs(value), 448.0);
  if (magnitude == 0) return sign;
  int exponent = 0;
  std::frexp(magnitude, &exponent);
  exponent = std::max(exponent, -5);  // below 2^-6 the steps stay 2^-9
  const double steps = std::nearbyint(std::ldexp(magnitude, 4 - exponent));
  return static_cast<uint8_t>(sign + static_cast<int>(steps) + ((exponent + 5) << 3));
}

inline double Quantized(double value, double scale) {
  return std::clamp(std::nearbyint(value / scale), -128.0, 127.0);
}

inline double Gelu(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }

inline Values LayerNorm(Values rows, const Values& gamma, const Values& beta) {
  const size_t channels = gamma.size();
  for (size_t begin = 0; begin < rows.size(); begin += channels) {
    double mean = 0, variance = 0;
    double* row = rows.data() + begin;
    for (size_t c = 0; c < channels; ++c) mean += row[c] / channels;
    for (size_t c = 0; c < channels; ++c) variance += std::pow(row[c] - mean, 2) / channels;
    for (size_t c = 0; c < channels; ++c) {
      row[c] = (row[c] - mean) / std::sqrt(variance + 1e-12) * gamma[c] + beta[c];
    }
  }
  return rows;
}

// x W' + bias; `bias` may be empty.
inline Values Linear(const Values& x, const Values& weight, const Values& bias, size_t out) {
  const size_t in = weight.size() / out, tokens = x.size() / in;
  Values y(tokens * out);
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t o = 0; o < out; ++o) {
      double sum = bias.empty() ? 0 : bias[o];
      for (size_t i = 0; i < in; ++i) sum += x[t * in + i] * weight[o * in + i];
      y[t * out + o] = sum;
    }
  }
  return y;
}

// Padded windows; rows from a window's length on are zeros.
inline Values Attention(const Values& qkv, const std::vector<int32_t>& lengths, size_t max_length,
                        size_t heads, size_t head_size) {
  const size_t hidden = heads * head_size, row = 3 * hidden;
  Values context(lengths.size() * max_length * hidden);
  Values scores(max_length);
  for (size_t w = 0; w < lengths.size(); ++w) {
    const double* window = qkv.data() + w * max_length * row;
    const size_t length = static_cast<size_t>(lengths[w]);
    for (size_t h = 0; h < heads; ++h) {
      for (size_t q = 0; q < length; ++q) {
        const double* query = window + q * row + h * head_size;
        double largest = -INFINITY, sum = 0;
        for (size_t k = 0; k < length; ++k) {
          const double* key = window + k * row + hidden + h * head_size;
          double dot = 0;
          for (size_t i = 0; i < head_size; ++i) dot += query[i] * key[i];
          scores[k] = dot / std::sqrt(static_cast<double>(head_size));
          largest = std::max(largest, scores[k]);
        }
        for (size_t k = 0; k < length; ++k) sum += scores[k] = std::exp(scores[k] - largest);
        double* out = context.data() + (w * max_length + q) * hidden + h * head_size;
        for (size_t k = 0; k < length; ++k) {
          const double* value = window + k * row + 2 * hidden + h * head_size;
          for (size_t i = 0; i < head_size; ++i) out[i] += scores[k] / sum * value[i];
        }
      }
    }
  }
  return context;
}

}  // namespace reference

#endif  // BERT_PLUGIN_TESTS_REFERENCE_H
