// Takes the place of the NVIDIA driver (libcuda.so.1) and says that it is of CUDA 11.4: too old for
// any toolkit that compiles this project.
extern "C" {

int cuDriverGetVersion(int* version) {
  *version = 11040;
  return 0;  // CUDA_SUCCESS
}

int cuGetProcAddress(const char*, void** function, int, unsigned long) {
  *function = nullptr;
  return 500;  // CUDA_ERROR_NOT_FOUND
}

}  // extern "C"
