// libcurand.so.10: Candle creates a generator with every device. Nothing draws from it, so the functions that would are
// omitted.
#include "../device/settings.h"

extern "C" {
SOFTGPU_EXPORT int curandCreateGenerator(void **generator, int) {
    *generator = new char;
    return 0;
}
SOFTGPU_EXPORT int curandDestroyGenerator(void *generator) {
    delete static_cast<char *>(generator);
    return 0;
}
SOFTGPU_EXPORT int curandSetPseudoRandomGeneratorSeed(void *, unsigned long long) { return 0; }
SOFTGPU_EXPORT int curandSetStream(void *, void *) { return 0; }
}
