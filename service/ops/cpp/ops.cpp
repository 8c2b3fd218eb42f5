// All operators as one translation unit: LibTorch's headers cost far more time than what is built on them.
#include "attention.cpp"
#include "capped_attention.cpp"
#include "head.cpp"
#include "lora_linear.cpp"
#include "tensor.cpp"
