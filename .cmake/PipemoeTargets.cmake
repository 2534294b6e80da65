# How every target of the project is built, and how the libraries are installed.

# Without -Wrestrict, which GCC 12 gives for correct uses of std::string at -O3.
add_library(pipemoe_warnings INTERFACE)
target_compile_options(pipemoe_warnings INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wno-missing-field-initializers -Wno-restrict -Wconversion -Wshadow -Wnon-virtual-dtor>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${PIPEMOE_WARNINGS_AS_ERRORS}>>:-Werror>)

# pipemoe_library(<folder> <sources>...): the static library pipemoe::<folder>, installed with the
# headers of its folder. Includes are spelt from the project's root.
function(pipemoe_library name)
  add_library(pipemoe_${name} STATIC ${ARGN})
  add_library(pipemoe::${name} ALIAS pipemoe_${name})
  set_target_properties(pipemoe_${name} PROPERTIES EXPORT_NAME ${name})
  target_compile_features(pipemoe_${name} PUBLIC cxx_std_20)
  target_include_directories(pipemoe_${name} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>
    $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/pipemoe>)
  target_link_libraries(pipemoe_${name} PRIVATE $<BUILD_INTERFACE:pipemoe_warnings>)
  install(TARGETS pipemoe_${name} EXPORT pipemoe ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR}/
          DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/pipemoe/${name}
          FILES_MATCHING PATTERN "*.hpp" PATTERN "bench" EXCLUDE)
endfunction()

# pipemoe_benchmark(<name> <libraries>...): bench/<name>.cpp as a google-benchmark program.
function(pipemoe_benchmark name)
  find_package(benchmark REQUIRED)
  add_executable(${name} bench/${name}.cpp)
  target_link_libraries(${name} PRIVATE ${ARGN} pipemoe_warnings benchmark::benchmark_main)
endfunction()

# find_package(pipemoe) for outside projects: pipemoe::models and, when built, pipemoe::sim.
function(pipemoe_install_package)
  include(CMakePackageConfigHelpers)
  set(destination ${CMAKE_INSTALL_LIBDIR}/cmake/pipemoe)
  configure_package_config_file(${PROJECT_SOURCE_DIR}/.cmake/pipemoeConfig.cmake.in
    ${PROJECT_BINARY_DIR}/pipemoeConfig.cmake INSTALL_DESTINATION ${destination})
  write_basic_package_version_file(${PROJECT_BINARY_DIR}/pipemoeConfigVersion.cmake
    COMPATIBILITY SameMinorVersion)
  install(FILES ${PROJECT_BINARY_DIR}/pipemoeConfig.cmake
                ${PROJECT_BINARY_DIR}/pipemoeConfigVersion.cmake DESTINATION ${destination})
  install(EXPORT pipemoe NAMESPACE pipemoe:: FILE pipemoeTargets.cmake
          DESTINATION ${destination})
endfunction()
