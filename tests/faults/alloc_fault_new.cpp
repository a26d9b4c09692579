// SPDX-License-Identifier: BSD-3-Clause
// operator new of a whole test program, see alloc_fault.hpp. The rest of the
// family (new[], nothrow) ends here by the standard's defaults.
#include <cstdlib>
#include <new>

#include "tests/faults/alloc_fault.hpp"

void* operator new(std::size_t size) {
  if (nbd_remap::AllocFault::strikes()) throw std::bad_alloc();
  void* memory = std::malloc(size == 0 ? 1 : size);
  if (!memory) throw std::bad_alloc();
  return memory;
}

void* operator new(std::size_t size, std::align_val_t alignment) {
  if (nbd_remap::AllocFault::strikes()) throw std::bad_alloc();
  void* memory = nullptr;
  if (::posix_memalign(&memory, static_cast<std::size_t>(alignment),
                       size == 0 ? 1 : size) != 0)
    throw std::bad_alloc();
  return memory;
}

// Aligned buffers come from here.
extern "C" void* aligned_alloc(std::size_t alignment, std::size_t size) {
  if (nbd_remap::AllocFault::strikes()) return nullptr;
  void* memory = nullptr;
  return ::posix_memalign(&memory, alignment, size) == 0 ? memory : nullptr;
}

void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}
