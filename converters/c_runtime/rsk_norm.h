/* Scales, slopes and normalisations along channels and groups. */
#ifndef RSK_NORM_H
#define RSK_NORM_H

#include "rsk_base.h"

RSK_FUNCTION void rsk_affine(float* out, const float* in, uint32_t images, uint32_t channels, uint32_t size, const float* scale, const float* shift) {
  for (uint32_t image = 0; image < images; image++)
    for (uint32_t channel = 0; channel < channels; channel++)
      for (uint32_t i = 0; i < size; i++) *out++ = *in++ * scale[channel] + shift[channel];
}

/* `slopes` is the number of slopes: one a channel, or one for all. */
RSK_FUNCTION void rsk_prelu(float* out, const float* in, uint32_t images, uint32_t channels, uint32_t size, const float* slope, uint32_t slopes) {
  for (uint32_t image = 0; image < images; image++)
    for (uint32_t channel = 0; channel < channels; channel++)
      for (uint32_t i = 0; i < size; i++, in++) *out++ = *in >= 0 ? *in : *in * slope[slopes > 1 ? channel : 0];
}

/* `count` elements to mean 0 and variance 1. */
RSK_FUNCTION void rsk_normalise(float* out, const float* in, uint32_t count, float epsilon) {
  float mean = 0, variance = 0;
  for (uint32_t i = 0; i < count; i++) mean += in[i];
  mean /= (float)count;
  for (uint32_t i = 0; i < count; i++) {
    out[i] = in[i] - mean;
    variance += out[i] * out[i];
  }
  const float scale = 1 / sqrtf(variance / (float)count + epsilon);
  for (uint32_t i = 0; i < count; i++) out[i] *= scale;
}

RSK_FUNCTION void rsk_layer_norm(float* out, const float* in, uint32_t rows, uint32_t size, const float* scale, const float* shift, float epsilon) {
  for (uint32_t row = 0; row < rows; row++, in += size, out += size) {
    rsk_normalise(out, in, size, epsilon);
    for (uint32_t i = 0; i < size; i++) out[i] = out[i] * scale[i] + shift[i];
  }
}

RSK_FUNCTION void rsk_group_norm(float* out, const float* in, uint32_t images, uint32_t channels, uint32_t size, uint32_t groups, const float* scale,
                                 const float* shift, float epsilon) {
  const uint32_t count = channels / groups * size;
  for (uint32_t group = 0; group < images * groups; group++) rsk_normalise(out + (size_t)group * count, in + (size_t)group * count, count, epsilon);
  rsk_affine(out, out, images, channels, size, scale, shift);
}

struct rsk_lrn {
  uint32_t images, channels, size, below, above;
  float factor, power, bias;
};

RSK_FUNCTION void rsk_local_response(const struct rsk_lrn* l, float* out, const float* in) {
  for (uint32_t image = 0; image < l->images; image++, in += (size_t)l->channels * l->size)
    for (uint32_t channel = 0; channel < l->channels; channel++)
      for (uint32_t i = 0; i < l->size; i++) {
        const uint32_t first = channel < l->below ? 0 : channel - l->below;
        const uint32_t last = channel + l->above < l->channels ? channel + l->above : l->channels - 1;
        float sum = 0;
        for (uint32_t c = first; c <= last; c++) sum += in[c * l->size + i] * in[c * l->size + i];
        *out++ = in[channel * l->size + i] / powf(l->bias + l->factor * sum, l->power);
      }
}

/* Along an axis of `size` with `inner` elements from one to the next. */
RSK_FUNCTION void rsk_softmax(float* out, const float* in, uint32_t outer, uint32_t size, uint32_t inner, int logarithm) {
  for (uint32_t o = 0; o < outer; o++)
    for (uint32_t i = 0; i < inner; i++) {
      const float* x = in + (size_t)o * size * inner + i;
      float* y = out + (size_t)o * size * inner + i;
      float largest = x[0], total = 0;
      for (uint32_t k = 1; k < size; k++) largest = x[(size_t)k * inner] > largest ? x[(size_t)k * inner] : largest;
      for (uint32_t k = 0; k < size; k++) total += expf(x[(size_t)k * inner] - largest);
      for (uint32_t k = 0; k < size; k++) {
        const float value = x[(size_t)k * inner] - largest;
        y[(size_t)k * inner] = logarithm ? value - logf(total) : expf(value) / total;
      }
    }
}

#endif
