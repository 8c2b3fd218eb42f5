// All operators as one translation unit: LibTorch's headers cost far more time than what is built on them.
#include "attention.cpp"
#include "capped_attention.cpp"
#include "device_memory.cpp"
#include "efficient_attention.cpp"
#include "head.cpp"
#include "host_memory.cpp"
#include "op_times.cpp"
#include "rotary_attention.cpp"
#include "tensor.cpp"
#include "varlen_flash.cpp"
// Linear layers know what these two make, so they come after them.
#include "norm.cpp"
#include "swiglu.cpp"

#include "linear.cpp"
#include "lora_linear.cpp"
